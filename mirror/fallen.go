package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
)

// The log holds what an absent peer lacks while it can. From logHigh per cent on, its oldest
// segments are entered into the dirty map and given up, down to logKeep: the peer then gets what
// the map says, and the rest from the log.
const (
	logHigh   = 75
	logKeep   = 60
	fallBatch = 256 // segments entered in one batch
)

// fallen enters segments into the dirty map.
type fallen struct {
	n      *Node
	begun  uint64     // ticket of the superblock that says that the map counts
	upTo   seglog.LSN // entered, not yet given up
	active bool
	back   bool // the reader was put back to what the peer is known to have
}

// lacks reports whether the peer lacks something that is not in the log.
func (n *Node) lacks() bool { return n.marks()&(seglog.PeerNeedsFullSync|seglog.DirtyMap) != 0 }

// reader is whose segments are entered: those that the peer lacks, or has in a stage only; nil: nobody's.
func (f *fallen) reader() *seglog.Reader {
	switch n := f.n; {
	case n.full.kept != nil:
		return n.full.kept
	case !n.s.up:
		return n.ship.r
	}
	return nil
}

func (f *fallen) reset() { f.upTo, f.active, f.back = 0, false, false }

// kick goes on while the log is full and the peer is away, or has what it gets in a stage only.
func (f *fallen) kick() {
	n := f.n
	r := f.reader()
	if r == nil {
		f.reset()
		return
	}
	d := n.log.Dirty()
	if f.upTo > 0 && d.Durable() && n.log.Updated() >= f.begun {
		if r.Release(f.upTo); r == n.full.kept && !n.s.up && n.ship.r != nil {
			n.ship.r.Skip(f.upTo)
		}
		f.upTo = 0
	}
	used, of := n.log.Used()
	switch {
	case used*100 < of*logHigh && !f.active:
		return
	case n.marks()&seglog.PeerNeedsFullSync != 0:
		if n.full.letGo(); !n.s.up { // it gets everything anyway
			n.ship.close()
		}
		return
	case f.upTo > 0:
		return
	case !d.Active():
		h, ok := n.log.Hash(r.Kept())
		if !ok {
			n.needsAll("catches up", fmt.Errorf("the header of LSN %d is not known any more", r.Kept()))
			return
		}
		f.begun = d.Begin(seglog.Point{LSN: r.Kept(), PrevHash: h})
		n.event("peer", "catches up from the log", "catches up from the dirty map", fmt.Sprintf("the log is %d %% full", used*100/of))
	}
	f.active = true
	f.enter(r, of)
}

// enter takes the oldest segments into the map.
func (f *fallen) enter(r *seglog.Reader, of int64) {
	n, d := f.n, f.n.log.Dirty()
	keep := n.log.Head() - min(n.log.Head(), seglog.Pos(of*logKeep/100))
	if !f.back {
		f.back = true
		r.Rewind(r.Kept())
	}
	for range fallBatch {
		if i, ok := n.log.Lookup(r.Position() + 1); !ok || i.Pos >= keep {
			f.active = false
			break
		}
		s := r.Next(n.log.Durable())
		if s == nil {
			break
		}
		if !(Planted && Plant == "map-bit-lost" && n.log.Sealed()%16 == 0) {
			d.MarkSegment(s)
		}
		d.Point(seglog.Point{LSN: s.LSN, PrevHash: s.Hash})
		f.upTo = s.LSN
	}
	if err := r.Err(); err != nil {
		n.needsAll("catches up", err)
	}
}

// needsAll makes the peer need everything: what it lacks cannot be said, or sent, any more.
func (n *Node) needsAll(old string, err error) {
	n.event("peer", old, "needs a full sync", err.Error())
	n.log.Update(func(s *seglog.Super) { s.Marks |= seglog.PeerNeedsFullSync })
}
