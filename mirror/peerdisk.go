package mirror

import (
	"syscall"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// peerReads is how many reads of the peer's copy are under way; more wait.
const peerReads = 64

// peerWait is how long a read waits for a peer that is away, unless the volume is remote.
const peerWait = 5 * second

// PeerDisk is the peer's copy as a device: it only reads. A request's LSN is the oldest state
// that may answer it.
type PeerDisk struct {
	n     *Node
	slots [peerReads]peerSlot
	wait  blk.Queue
	done  blk.Queue
	since int64 // when the first of those that wait began to

	Served uint64 // reads answered by the peer
}

type peerSlot struct {
	r    *blk.Request
	id   uint64
	sent bool
}

// Info is the volume's.
func (p *PeerDisk) Info() blk.Info { return p.n.cache.Info() }

// Close has nothing of its own to end.
func (p *PeerDisk) Close() error { return nil }

// Submit takes a read.
func (p *PeerDisk) Submit(r *blk.Request) {
	r.Err = 0
	if r.Op != blk.Read {
		r.Err = syscall.EOPNOTSUPP
		p.done.Push(r)
		return
	}
	if p.wait.Head() == nil {
		p.since = p.n.now.Mono
	}
	p.wait.Push(r)
}

// may reports whether the peer's copy can stand in for this one.
func (p *PeerDisk) may() bool {
	n := p.n
	return n.primary && n.s.up && !n.s.tail && !n.full.active && !n.lacks()
}

// Kick answers what cannot wait any longer.
func (p *PeerDisk) Kick(now blk.Instant) int64 {
	for r := p.done.Pop(); r != nil; r = p.done.Pop() {
		r.Owner.Complete(r)
	}
	if p.wait.Head() == nil || p.may() {
		return blk.Never
	}
	limit := int64(peerWait)
	if p.n.remoteMode || p.n.o.Lost {
		limit = p.n.o.Timing.Remote
	}
	if now.Mono < p.since+limit {
		return p.since + limit
	}
	for r := p.wait.Pop(); r != nil; r = p.wait.Pop() {
		r.Err = syscall.EIO
		r.Owner.Complete(r)
	}
	return blk.Never
}

// send asks the peer.
func (p *PeerDisk) send() {
	if !p.may() {
		return
	}
	for i := range p.slots {
		s := &p.slots[i]
		if s.r == nil {
			if s.r = p.wait.Pop(); s.r == nil {
				return
			}
			s.id += peerReads
			s.sent = false
		}
		if s.sent {
			continue
		}
		var b [wire.RangeBytes]byte
		wire.Range{ID: s.id + uint64(i), Offset: s.r.Offset, Length: s.r.Length}.Put(b[:])
		f := p.n.frameOf(wire.ReadRequest)
		f.LSN, f.Body = s.r.LSN, b[:]
		if s.sent = p.n.s.conn.Send(f); !s.sent {
			return
		}
	}
}

// reply takes an answer.
func (p *PeerDisk) reply(f *wire.Frame) {
	r, data, err := wire.ParseRange(f.Body, p.Info().SizeBytes)
	if err != nil {
		p.n.s.lost(err)
		return
	}
	s := &p.slots[r.ID%peerReads]
	q := s.r
	if q == nil || !s.sent || s.id+r.ID%peerReads != r.ID || q.Offset != r.Offset || q.Length != r.Length || r.Errno == 0 && int64(len(data)) != r.Length {
		return // an answer to a question of an older session
	}
	s.r = nil
	if r.Errno != 0 {
		q.Err = syscall.EIO
	} else {
		copy(q.Buf[:q.Length], data)
		p.Served++
	}
	q.Owner.Complete(q)
}

// lost makes every question be asked again in the next session.
func (p *PeerDisk) lost() {
	for i := range p.slots {
		if s := &p.slots[i]; s.r != nil {
			if p.wait.Head() == nil {
				p.since = p.n.now.Mono
			}
			p.wait.Push(s.r)
			s.r = nil
		}
	}
}
