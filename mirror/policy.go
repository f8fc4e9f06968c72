package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// bindLag is how few segments the peer may lack before acknowledgements wait for it again: with
// more, the client would wait for the whole backlog.
const bindLag = 64

// policy moves the cache's two limits as mode and session say; it is the primary's.
func (n *Node) policy() (wake int64) {
	wake = blk.Never
	switch {
	case !n.hasPeer():
		n.cache.AckLimit, n.cache.DestageLimit = unlimited, unlimited
		return wake
	case n.fenced:
		return wake
	case n.promoting > 0:
		if n.log.Updated() < n.promoting || n.claimed {
			return wake
		}
		n.promoting = 0
		n.serve("promoted")
	}
	if !n.ready {
		return n.startRule()
	}
	n.watchDisks()
	n.switchMode()
	switch {
	case n.remoteMode:
		if wake = n.fill.kick(); !n.remoteMode {
			return n.now.Mono // it is live again
		}
		n.cache.AckLimit, n.cache.DestageLimit = n.ship.durable, min(n.ship.durable, n.fill.limit())
		return min(wake, n.remoteWait())
	case n.detour.until > 0:
		wake = n.onDetour()
	case n.suspended:
		n.resumeWrites()
	case n.bound:
		n.limitBound()
	case n.unboundAt > 0:
		// Nothing is acknowledged alone before the mark that says so is durable.
		if n.log.Updated() >= n.unboundAt || Planted && Plant == "unmarked-alone" {
			n.unboundAt = 0
			n.cache.AckLimit, n.cache.DestageLimit = unlimited, unlimited
		}
	default:
		n.cache.AckLimit, n.cache.DestageLimit = unlimited, unlimited
		n.tryBind()
	}
	n.clearMarks()
	n.fell.kick()
	n.drain()
	return wake
}

// limitBound sets the limits while the session binds acknowledgements.
func (n *Node) limitBound() {
	switch n.o.Mode {
	case Async:
		n.cache.AckLimit, n.cache.DestageLimit = unlimited, unlimited
		return
	case SemiSync:
		n.cache.AckLimit, n.cache.DestageLimit = n.ship.received, unlimited
		return
	}
	n.cache.AckLimit, n.cache.DestageLimit = n.ship.durable, n.ship.durable
}

// tryBind binds acknowledgements to the mode again once the peer has nearly caught up.
func (n *Node) tryBind() {
	if !n.s.up || n.s.tail || n.full.active || n.ship.r == nil {
		return
	}
	if n.log.Sealed()-n.ship.durable > bindLag && n.ship.durable < n.log.Durable() {
		return
	}
	n.bound, n.boundAt = true, n.log.Durable()
	n.limitBound()
}

// clearMarks ends the degraded state: acknowledgements bound, everything acknowledged remote
// durable, the marks cleared durably, in this order.
func (n *Node) clearMarks() {
	const alone = seglog.Degraded | seglog.Ahead
	behind := n.ship.durable < n.boundAt && !(Planted && Plant == "clear-early")
	if !n.bound || n.suspended || n.detour.until > 0 || behind || n.lacks() {
		return
	}
	drop := alone
	if n.o.Mode.ahead() || n.wanted.ahead() {
		drop = seglog.Degraded
	}
	if had := n.marks() & drop; had != 0 {
		n.clearing = n.log.Update(func(s *seglog.Super) { s.Marks &^= drop })
		if had&seglog.Degraded != 0 {
			n.safeAt = n.clearing // a log that still says ahead, alone, keeps nobody from standing in
		}
	}
}

// inSync reports whether the peer has, or will at once have, everything that was acknowledged.
func (n *Node) inSync() bool {
	return n.s.up && n.bound && !n.suspended && n.ship.durable >= n.boundAt && n.marks()&seglog.Degraded == 0 && !n.lacks() && n.log.Updated() >= n.safeAt
}

// holdAcks lets nothing more be acknowledged than what the peer is known to have.
func (n *Node) holdAcks() {
	n.cache.AckLimit = min(n.cache.AckLimit, max(n.remoteDurable(), n.log.First()-1))
}

// unbind makes acknowledgements independent of the peer, once a durable mark says so.
func (n *Node) unbind(reason string) {
	if n.o.OnDisconnect != Continue && n.ready && n.marks()&seglog.Degraded == 0 {
		n.suspend(reason)
		return
	}
	n.bound = false
	const want = seglog.Degraded | seglog.Ahead | seglog.HasPeer
	if n.marks()&want == want && n.log.Updated() >= n.clearing && n.unboundAt == 0 {
		n.cache.AckLimit, n.cache.DestageLimit = unlimited, unlimited
		return
	}
	n.unboundAt = n.log.Update(func(s *seglog.Super) { s.Marks |= want })
	if !n.remoteMode {
		n.holdAcks()
		if n.o.Mode == Async && n.ready {
			n.cache.AckLimit = n.log.Durable()
		}
	}
}

// sessionLost is told when a session, or an attempt at one, ends.
func (n *Node) sessionLost(err error) {
	n.peer.lost()
	n.srv.lost()
	n.rx.lost()
	n.full.lost()
	n.lag.down(err)
	n.fill.asked = false
	n.remoteAsked = false
	n.swap.wanted = false
	if !n.primary || n.swap.handed {
		return
	}
	if n.ready && n.bound && !n.remoteMode && !n.takeDetour(err.Error()) {
		n.endDetour()
		n.unbind(err.Error())
	}
}

// sessionUp is told when a primary's session is agreed upon.
func (n *Node) sessionUp(v Verdict) {
	if n.o.Blank || n.o.Lost && !n.ready || n.promoting > 0 {
		return // watchDisks goes on, or the policy once the new term is durable
	}
	if !n.ready {
		n.serve("the peer was asked first: " + v.String())
	}
}

// startRule lets a restarted primary serve: after its peer was asked, or alone when it died
// degraded or the user says so.
func (n *Node) startRule() int64 {
	if n.o.Lost {
		n.startLost()
		return blk.Never
	}
	now, wait := n.now.Mono, n.begun+n.o.Timing.StartWait
	if n.s.up || n.s.conn != nil || n.s.diverged != "" {
		return blk.Never
	}
	alone := n.o.StartAlone || n.marks()&seglog.Degraded != 0 && !n.o.Fenced || Planted && Plant == "start-unasked"
	switch {
	case !alone:
		return blk.Never
	case n.dialFailures > 0 || now >= wait:
		why := "it died degraded, so the peer has nothing that this side lacks"
		if n.o.StartAlone {
			why = "the user said --start-alone"
		}
		n.serve("the peer cannot be reached; " + why)
		return now
	}
	return wait
}

// StartAlone is the user's word for a primary that waits for its peer: it serves if that cannot be asked.
func (n *Node) StartAlone() error {
	switch {
	case !n.primary:
		return errors.New("this is a secondary")
	case n.fenced:
		return errors.New("this side is fenced: its peer was promoted")
	case n.o.Lost:
		return errors.New("the volume's own disk or log is missing: only its peer can serve")
	}
	n.o.StartAlone = true
	return nil
}

// tookTail is told when a starting primary has all that its peer had more.
func (n *Node) tookTail() {
	n.s.tail = false
	n.s.view.Peer.Last.LSN = n.log.Sealed()
	n.s.view.Common, n.s.view.Known = n.log.Sealed(), true
	n.ship.skip(n.log.Sealed())
	if err := n.s.decide(); err != nil {
		n.s.lost(err)
	}
}

// fence stops a primary whose peer reigns in a newer term.
func (n *Node) fence(reason string) {
	if n.fenced {
		return
	}
	n.fenced = true
	n.event("volume", n.state, "fenced", reason)
	n.cache.Refuse(true)
}

// acked takes the peer's word on how far it is.
func (n *Node) acked(f *wire.Frame) {
	if !n.primary || n.s.tail {
		return // the peer has more than this side, which is being brought level
	}
	if f.LSN > n.log.Sealed() || f.Durable > f.LSN {
		n.s.lost(fmt.Errorf("the peer acknowledges LSN %d, which was never sent", max(f.LSN, f.Durable)))
		return
	}
	n.ship.received = max(n.ship.received, f.LSN)
	n.ship.durable = max(n.ship.durable, f.Durable)
	switch n.o.Mode {
	case Sync:
		n.cache.Passed(blk.PeerAcked, n.ship.durable, n.now)
	case SemiSync:
		n.cache.Passed(blk.PeerAcked, n.ship.received, n.now)
	}
	if n.ship.r != nil {
		n.ship.r.Release(n.ship.durable)
	}
	if f.Flags&ackInPlace != 0 {
		n.full.inPlace()
	}
	if f.Flags&ackWhole != 0 {
		n.full.whole()
	}
}

// progressed takes the peer's word on how much of a sync is durable there.
func (n *Node) progressed(f *wire.Frame) {
	r, _, err := wire.ParseRange(f.Body, n.cache.Info().SizeBytes)
	if err != nil || !n.primary {
		n.s.lost(errors.Join(errors.New("unexpected progress of a sync"), err))
		return
	}
	n.full.reached(r.Offset + r.Length)
}
