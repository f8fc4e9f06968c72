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
}

// open makes the reader that keeps what the peer lacks in the log.
func (p *shipper) open(from seglog.LSN) {
	if p.r == nil {
		p.r = p.n.log.NewReader("ship", from)
	}
}

// from makes the stream go on after lsn, which the peer holds durably and this log reaches back to.
func (p *shipper) from(lsn seglog.LSN) error {
	if p.r != nil && p.r.Kept() > lsn {
		p.close() // it had given up more, for the dirty map
	}
	p.open(lsn)
	p.r.Rewind(lsn)
	p.r.Release(lsn)
	if p.r.Position() != lsn {
		return fmt.Errorf("the log is still being read behind LSN %d", lsn)
	}
	p.to = lsn
	p.received, p.durable = lsn, lsn
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
		return
	}
	for !n.full.due() && n.pace.may(n.now.Mono) {
		s := p.r.Next(unlimited)
		if s == nil {
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
