package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// A sync that fits the secondary's log is staged there, blocks and what follows them, and becomes visible as
// one generation at its end: until then the copy stays what it was. The primary decides; the secondary gives a
// stage up that the log has no room for: it then says that it is inconsistent, and the sync goes on in place.

// stageable is how much of a sync this secondary can stage.
func (n *Node) stageable() uint64 {
	if n.primary || n.cache.Data() == nil || int64(n.cache.Info().LogicalBytes) > n.log.StageUnit() {
		return 0
	}
	return uint64(n.log.StageSpace())
}

// visible is the end of the copy that a staged generation leaves as it is.
func (n *Node) visible() wire.Point {
	v := n.log.Super().Visible
	return wire.Point{LSN: v.LSN - 1, Hash: v.PrevHash}
}

// drop gives a staged generation up, durably.
func (x *receiver) drop(why string, change func(s *seglog.Super)) error {
	n := x.n
	if err := x.quiet(); err != nil {
		return err
	}
	n.event("copy", fmt.Sprintf("staged up to LSN %d", n.log.Sealed()), fmt.Sprintf("LSN %d", n.visible().LSN), why)
	x.syncing, x.staged, x.giving, x.declared = false, false, "", 0
	return n.cache.DropStage(change, n.o.Drive)
}

// supersede makes way for a sync that begins anew. A primary that knows of stages goes by what is visible, an older
// one by the end of this log.
func (x *receiver) supersede(d *wire.DecisionMsg) error {
	n := x.n
	switch {
	case !n.cache.Staging():
	case d.Way == wire.MapSync && n.s.hello.Offered&wire.FeatureStage == 0:
		x.giveUp("the primary cannot stage a sync")
	case d.Way == wire.MapSync && !d.Stage || n.log.Sealed() > d.At.LSN:
		return x.drop("the sync begins anew", func(*seglog.Super) {})
	}
	return nil
}

// beginStage begins a generation: everything that was here before is on the data disk.
func (x *receiver) beginStage(d *wire.DecisionMsg, term seglog.Term) error {
	n := x.n
	if err := x.quiet(); err != nil {
		return err
	}
	if err := x.memory(); err != nil {
		return err
	}
	n.ship.close()
	x.begin()
	x.staged, x.declared = true, 0
	return n.cache.BeginStage(seglog.Point{LSN: d.At.LSN + 1, PrevHash: d.At.Hash}, n.log.StageSpace(), n.o.Random()|1, func(s *seglog.Super) {
		s.Marks = 0
		s.Term = term
	}, n.o.Drive)
}

// stage takes a block into the stage; false: it is held.
func (x *receiver) stage(f *wire.Frame, s *resyncSlot, zero bool) bool {
	n := x.n
	ok, free := n.cache.Stage(&s.Request, zero)
	if ok {
		return true
	}
	s.busy = false
	x.hold(f)
	if !free {
		x.giveUp("the log has no room for the rest of the sync")
	}
	return false
}

// giveUp makes a staged sync go on in place: see give.
func (x *receiver) giveUp(why string) {
	if x.giving == "" && x.n.cache.Staging() {
		x.giving = why
	}
}

// give goes on with that once the device has all blocks: they, and what follows them, become a copy that is
// inconsistent. Nothing is taken until the blocks are on the data disk.
func (x *receiver) give() {
	n := x.n
	if x.giving == "" || x.out > 0 || x.flushing {
		return
	}
	n.event("copy", fmt.Sprintf("consistent at LSN %d", n.visible().LSN), "inconsistent", x.giving)
	x.giving, x.staged, x.flushed = "", false, false
	x.gaveUp = n.cache.ShowStage(func(s *seglog.Super) { s.Marks |= seglog.Inconsistent })
}

// settle waits until what the end of a sync, or of its stage, changed in the superblock is durable: the hello says it.
func (x *receiver) settle() error {
	if t := max(x.ticket, x.gaveUp); t > x.n.log.Updated() {
		return x.n.log.Sync(t, x.n.o.Drive)
	}
	return nil
}

// tellsInPlace reports whether the primary is to be told that, and may: it is durable.
func (x *receiver) tellsInPlace() bool { return x.gaveUp > 0 && x.n.log.Updated() >= x.gaveUp }

// inPlace is the primary's: the peer has given its stage up.
func (s *fullSync) inPlace() {
	if s.staged {
		s.n.event("peer", "stages the sync", "takes it in place", "its log has no room for it: its copy is inconsistent until it is done")
		s.hold(false, 0)
	}
}

// converts reports whether a sync waits because it is to go on in place.
func (x *receiver) converts() bool {
	return x.giving != "" || x.syncing && !x.staged && x.n.cache.Applying()
}

// show makes the generation visible.
func (x *receiver) show() {
	n := x.n
	x.ticket = n.cache.ShowStage(func(s *seglog.Super) { s.StageBlocks = n.log.StagedBlocks() })
}

// stages decides whether the sync that begins is staged at the peer, which then has at most the old copy of what
// the map says until it is whole.
func (s *fullSync) stages() bool {
	p := &s.n.s.view.Peer
	marks := seglog.Marks(p.Marks)
	if p.Offered&wire.FeatureStage == 0 || p.New || p.Discard || marks&seglog.Inconsistent != 0 && !p.Staging {
		return false
	}
	head := max(int64(p.LogBlock), int64(p.DiskBlock), blk.SectorBytes)
	piece := min(s.n.log.Dirty().Unit(), s.n.o.Sync.Piece)
	return s.left+s.left/piece*head <= int64(p.StageRoom)
}

// hold keeps in the log what the peer has only in its stage, until the map says it: see fallen.
func (s *fullSync) hold(staged bool, from seglog.LSN) {
	n := s.n
	if s.staged = staged; staged {
		s.visible = n.s.view.Peer.Visible.LSN
		if !n.s.view.Peer.Staging {
			s.visible = n.s.view.Peer.Last.LSN
		}
		if s.kept == nil && !(Planted && Plant == "gen-frees-unmapped") {
			s.kept = n.log.NewReader("stage", from)
		}
		return
	}
	s.letGo()
}

// letGo ends that.
func (s *fullSync) letGo() {
	if s.kept == nil {
		return
	}
	if s.kept.Close() != nil {
		s.gone = append(s.gone, s.kept) // it is being read: see sweep
	}
	s.kept = nil
	s.n.fell.reset()
}

// sweep closes readers that were being read when they were let go.
func (s *fullSync) sweep() {
	for len(s.gone) > 0 && s.gone[0].Close() == nil {
		s.gone = s.gone[1:]
	}
}

// remoteDurable is what the peer has for certain: of a sync that is staged there nothing counts.
func (n *Node) remoteDurable() seglog.LSN {
	if n.full.staged {
		return min(n.full.visible, n.ship.durable)
	}
	return n.ship.durable
}
