package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// watchDisks notices a lost data disk or log. With a peer in sync the volume goes remote: the
// peer first notes, durably, that this side needs a refill, then stands in.
func (n *Node) watchDisks() {
	err := firstErr(n.cache.Lost())
	in := n.inSync() && n.canShip()
	if n.remoteMode {
		return
	}
	if err == nil && !(n.replace && in) {
		n.cache.Doubt(in)
		n.takeBack()
		return
	}
	if err == nil {
		err = errReplaced
	}
	if !in {
		n.cache.Doubt(false) // nobody can stand in: what this side still has is served, the rest fails
		n.remoteAsked = false
		return
	}
	n.askRefill(err.Error())
}

// canShip reports whether what the peer lacks can still be sent: what lay only on a log that is lost cannot.
func (n *Node) canShip() bool {
	if _, err := n.cache.Lost(); err == nil {
		return true
	}
	s, ok := n.log.Lookup(n.ship.durable + 1)
	return !ok || n.log.RAM(s.Pos, s.Bytes) != nil
}

// askRefill asks the peer to note that this side needs a refill.
func (n *Node) askRefill(why string) {
	if n.remoteAsked || !n.s.up {
		return
	}
	if n.sayMark(wire.FactRefill) {
		n.remoteAsked, n.askedRefill = true, true
		n.reason = why
	}
}

// errReplaced is why a disk that works is used no more.
var errReplaced = errors.New("the user replaces the data disk")

// sayMark tells the peer a fact.
func (n *Node) sayMark(fact uint8) bool {
	f := n.frameOf(wire.Mark)
	f.Flags = fact
	return n.s.conn.Send(f)
}

// takeBack tells a peer that noted a need which this side then did not act upon: the session ended
// before its answer came.
func (n *Node) takeBack() {
	if n.noted && n.s.up && !n.remoteAsked {
		n.noted = !n.sayMark(wire.FactRefilled)
	}
}

// mark is the secondary's: it makes a fact durable and says so.
func (n *Node) mark(f *wire.Frame) {
	switch {
	case n.primary && f.Flags == wire.FactSwap:
		n.roleWanted(f)
		return
	case n.primary:
		n.s.lost(errors.New("a fact for a primary"))
		return
	}
	switch f.Flags {
	case wire.FactRefill:
		n.note(f.Flags, func(s *seglog.Super) { s.Marks |= seglog.PeerNeedsRefill })
		n.event("peer", "has its own disk", "needs a refill", "it lost its disk or log and relies on this copy")
	case wire.FactRefilled:
		n.note(f.Flags, func(s *seglog.Super) { s.Marks &^= seglog.PeerNeedsRefill })
		n.event("peer", "needs a refill", "has its own disk", "")
	case wire.FactEnd:
		n.rx.declare(f.Durable)
		n.rx.ending = true
		n.cache.DestageAll(true)
	}
}

// note makes a fact of the primary's durable and answers.
func (n *Node) note(fact uint8, change func(s *seglog.Super)) {
	if err := n.log.Sync(n.log.Update(change), n.o.Drive); err != nil {
		n.s.lost(err)
		return
	}
	r := n.frameOf(wire.MarkDone)
	r.Flags = fact
	n.s.conn.Send(r)
}

func (n *Node) markDone(f *wire.Frame) {
	switch f.Flags {
	case wire.FactRefill:
		if n.remoteAsked {
			n.goRemote()
		}
	case wire.FactRefilled:
		n.fill.gone, n.askedRefill = n.fill.asked, n.remoteAsked
	case wire.FactEnd:
		n.drained = true
	case wire.FactSwap:
		n.granted(f)
	case wire.FactKeep:
		if n.swap.asked {
			n.keeps(reasonIn(f))
		}
	}
}

func (n *Node) goRemote() {
	n.remoteMode, n.remoteAsked, n.askedRefill, n.noted = true, false, false, false
	n.fill.asked, n.fill.gone = false, false
	n.event("volume", n.state, "remote", n.reason)
	data, _ := n.cache.Lost()
	if n.replace && data == nil {
		n.cache.LoseData(errReplaced)
	}
	n.replace = false
	n.cache.SetRemote(true)
	n.cache.Doubt(false)
	n.cache.AckLimit, n.cache.DestageLimit = n.ship.durable, n.ship.durable
	n.refillOrLose()
	if !n.ready {
		n.ready = true
		n.cache.Hold(false)
		n.event("volume", "starting", "serving", "remote: the peer's copy is the volume")
	}
}

// refillOrLose goes on with a refill that was interrupted; otherwise it says durably that the data
// disk, if that is what was lost, is not good any more.
func (n *Node) refillOrLose() {
	data, _ := n.cache.Lost()
	filling, upTo := n.cache.Filling()
	switch {
	case filling && data == nil:
		if err := n.fill.start(upTo, 0); err != nil {
			n.fill.fail(err)
		}
	case data != nil || n.cache.Data() == nil:
		n.lostTicket = n.log.Update(needRefill)
	}
}

// remoteWait bounds how long I/O waits for an absent peer while the volume is remote; with on-disconnect=error it does not.
func (n *Node) remoteWait() int64 {
	if n.s.up {
		if n.remoteDown > 0 {
			n.remoteDown = 0
			n.cache.Refuse(n.failed != nil)
		}
		return blk.Never
	}
	if n.remoteDown == 0 {
		n.remoteDown, n.detour.failures = n.now.Mono, n.dialFailures
	}
	end := n.remoteDown + n.o.Timing.Remote
	if n.o.OnDisconnect == Error {
		end = n.remoteDown
		if n.mayReturn() && n.dialFailures == n.detour.failures {
			end += n.o.Timing.Paths // that is tried first
		}
	}
	n.cache.Refuse(n.now.Mono >= end || n.failed != nil)
	if n.now.Mono >= end {
		return blk.Never
	}
	return end
}

// startLost is the start rule of a volume whose disk or log is missing: only with its peer.
func (n *Node) startLost() {
	if n.s.up && !n.s.tail && n.ship.durable >= n.log.Sealed() {
		why := "the volume's own disk or log is missing"
		if err := firstErr(n.cache.Lost()); err != nil {
			why = err.Error()
		}
		n.askRefill(why)
	}
}

// startBlank takes the end of the peer's chain for this side's, which has no log.
func (s *session) startBlank() error {
	n, p := s.n, s.view.Peer
	switch {
	case p.Volume != s.view.Me.Volume:
		return errors.New("the peer holds another volume")
	case p.Primary:
		n.fence("the peer was promoted meanwhile")
		return errors.New("the peer is the primary")
	case p.Staging:
		return fmt.Errorf("a sync is staged at the peer, and incomplete, and this side has no log: promote the peer, whose copy is as of LSN %d", p.Visible.LSN)
	case seglog.Marks(p.Marks)&seglog.Inconsistent != 0:
		return errors.New("the peer's copy is incomplete, and this side has no log: neither can serve")
	}
	err := n.cache.Reset(seglog.Point{LSN: p.Last.LSN + 1, PrevHash: p.Last.Hash}, func(x *seglog.Super) {
		x.Term = seglog.Term{Number: p.Term.Number, ID: p.Term.ID}
		if n := int64(p.MaxSegment); n >= 1024 {
			x.MaxSegmentBytes = min(x.MaxSegmentBytes, n) // what the log that is missing made, the peer's takes
		}
	}, n.o.Drive)
	if err != nil {
		return fmt.Errorf("take the end of the peer's chain: %w", err)
	}
	n.cache.LoseData(errors.New("the log is missing, and with it what the data disk lacks"))
	s.know(p.Last)
	return s.decide()
}

// Drain brings a connected peer level, declares everything durable and destages all, on both
// sides; Drained says when that is done. New requests must not come any more. A peer that is lost
// meanwhile is waited for, unless alone says that this side will do.
func (n *Node) Drain(alone bool) error {
	switch {
	case n.remoteMode:
		return errors.New("the volume is remote: its own disk does not hold it; replace the disk, or promote the peer and delete here with --force")
	case n.primary && n.hasPeer() && !n.s.up && n.marks()&seglog.HasPeer != 0 && n.o.Net != nil && !n.o.StartAlone:
		// A peer that is away stays behind: it is found out at the next add.
	case !n.primary && max(n.rx.declared, n.cache.Declared()) < n.log.LastData():
		return fmt.Errorf("the newest writes here (up to LSN %d) were never declared durable by the primary: promote this side, or let the primary come back", n.log.Sealed())
	}
	if n.cache.Staging() {
		n.s.goodbye("this copy ends")
		n.s.lost(errors.New("this copy ends"))
		if err := n.rx.drop("this copy ends, and the sync is not whole", func(*seglog.Super) {}); err != nil {
			return err
		}
	}
	n.draining, n.drainPeer = true, n.primary && n.s.up && !alone
	n.cache.DestageAll(true)
	return nil
}

// drain goes on with a Drain of the primary.
func (n *Node) drain() {
	if !n.draining || n.drained || !n.s.up || n.full.active {
		return
	}
	if !n.allDurable() || n.remoteAsked {
		return
	}
	n.remoteAsked = n.sayMark(wire.FactEnd)
}

// Drained reports whether the data disks alone hold everything, and how many bytes are left.
// The chain then ends durably; the second call after that says so.
func (n *Node) Drained() (done bool, left int64) {
	left = n.cache.Dirty()
	if n.primary && (n.s.up || n.drainPeer) && !n.drained || left > 0 {
		return false, left
	}
	if n.endTicket == 0 {
		n.endTicket = n.log.Update(func(s *seglog.Super) { s.Marks = s.Marks&seglog.PeerNeedsRefill | seglog.Ended })
	}
	return n.log.Updated() >= n.endTicket, 0
}
