package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// shipper sends segments as they are sealed, in parallel with the local append.
type shipper struct {
	n        *Node
	r        *seglog.Reader
	to       seglog.LSN // all up to it were sent in this session
	received seglog.LSN
	durable  seglog.LSN // remote durable

	level    bool // all that was sealed was sent when head was the log's
	head     seglog.Pos
	gatherTo int64 // what was sealed since is sent then, though it is little; 0: nothing waits
}

// shipBytes of segments are sent at once in async mode; less waits for more, up to Timing.Ship.
const shipBytes = 64 << 10

// gathers reports whether what was sealed waits for more: nobody else does, in async mode, and for a
// frame and an answer each the two machines would work twice as hard.
func (p *shipper) gathers() bool {
	n := p.n
	waits := n.o.Mode == Async && n.bound && p.level && !n.full.active && !n.draining && !n.remoteMode &&
		p.head < n.log.Head() && n.log.Head()-p.head < shipBytes
	if waits && p.gatherTo == 0 {
		p.gatherTo = n.now.Mono + n.o.Timing.Ship
	}
	if waits && n.now.Mono < p.gatherTo {
		return true
	}
	p.gatherTo = 0
	return false
}

// wake is when what waits is sent.
func (p *shipper) wake() int64 {
	if p.gatherTo == 0 || !p.n.s.up {
		return blk.Never
	}
	return p.gatherTo
}

// open makes the reader that keeps what the peer lacks in the log.
func (p *shipper) open(from seglog.LSN) {
	if p.r == nil {
		p.r = p.n.log.NewReader("ship", from)
	}
}

// from makes the stream go on after lsn, which the peer holds, up to durable durably, and this log reaches back to.
func (p *shipper) from(lsn, durable seglog.LSN) error {
	if durable = min(durable, lsn); Planted && Plant == "session-durable" {
		durable = lsn
	}
	if p.r != nil && p.r.Kept() > lsn {
		p.close() // it had given up more, for the dirty map
	}
	p.open(durable)
	p.r.Rewind(lsn)
	p.r.Release(durable)
	if p.r.Position() != lsn {
		return fmt.Errorf("the log is still being read behind LSN %d", lsn)
	}
	p.to = lsn
	p.received, p.durable = lsn, durable
	return nil
}

// skip makes the stream go on after lsn, which this log has from the peer.
func (p *shipper) skip(lsn seglog.LSN) {
	p.open(lsn)
	p.r.Skip(lsn)
}

func (p *shipper) close() {
	if p.r != nil && p.r.Close() == nil {
		p.r = nil
	}
}

func (p *shipper) send() {
	n := p.n
	if p.r == nil || n.s.tail && n.primary || !n.s.up {
		p.gatherTo = 0
		return
	}
	if p.gathers() {
		return
	}
	p.level = false
	for !n.full.due() && n.pace.may(n.now.Mono) {
		s := p.r.Next(unlimited)
		if s == nil {
			p.level, p.head = p.to == n.log.Sealed(), n.log.Head()
			break
		}
		f := n.frameOf(wire.Segment)
		f.LSN, f.Body = s.LSN, s.Raw
		if !n.sendData(f, wire.PackKey{Kind: f.Kind, A: s.LSN, B: s.Hash}, s.HeaderBytes) {
			p.r.Unread()
			return
		}
		p.to = s.LSN
		n.cache.Passed(blk.PeerSent, s.LSN, n.now)
	}
	if err := p.r.Err(); err != nil {
		n.needsAll("catches up from the log", err)
		p.close()
		n.s.lost(err)
	}
}
