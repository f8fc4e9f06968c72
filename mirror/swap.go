package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// swap is a planned exchange of roles. The secondary asks: AskRole. The primary's owner takes the device
// away, then HandOver until that is done, then notes durably that this side starts as a secondary from
// now on, then Grant; KeepRole takes it back until that note. The peer promotes itself upon the grant, or
// upon a hello that proves the same. Wherever either side stops, at most one of them is, or comes back
// as, a primary: before the note it is the old one, after it nobody but whom the grant reaches.
type swap struct {
	asked  bool  // the secondary: no answer has come
	answer error // why the primary keeps its role

	wanted bool // the primary: asked in this session, and neither granted nor kept
	handed bool // this node is no primary any more, and nothing but that
	ticket uint64
	marks  seglog.Marks // before
}

var (
	errSwapLost = errors.New("the session ended before the roles were swapped")
	errHanded   = errors.New("this side hands its role over")
)

// AskRole asks a connected primary for its role, which it hands over within wait ns or keeps; RoleAsked
// says what became of it.
func (n *Node) AskRole(wait int64) error {
	switch err := n.MayPromote(); {
	case err != nil:
		return err
	case n.swap.asked:
		return errors.New("the primary has been asked already")
	case !n.s.up:
		return errors.New("the primary is not connected")
	case n.s.hello.Offered&wire.FeatureSwap == 0:
		return errConnected
	}
	f := n.frameOf(wire.Mark)
	f.Flags, f.Body = wire.FactSwap, wire.EncodeWait(wait)
	if !n.s.conn.Send(f) {
		return errors.New("the link is full: try again")
	}
	n.swap = swap{asked: true}
	n.event("role", "secondary", "asks for the primary's role", "by the user")
	return nil
}

// RoleAsked reports whether the primary's answer is waited for. If not, err is why it keeps its role; nil:
// this side is the primary, or never asked.
func (n *Node) RoleAsked() (waiting bool, err error) { return n.swap.asked, n.swap.answer }

// WithdrawRole ends the wait for an answer, and the session, so that the primary goes on if it still can.
func (n *Node) WithdrawRole() {
	if n.swap.asked {
		n.keeps(errSwapLost.Error())
		n.s.goodbye("the role is not asked for any more")
		n.s.lost(errSwapLost)
	}
}

// keeps ends the wait: this side stays the secondary.
func (n *Node) keeps(reason string) {
	n.swap = swap{answer: errors.New(reason)}
	n.event("role", "asks for the primary's role", "secondary", reason)
}

// granted is told that the primary is demoted, durably.
func (n *Node) granted(f *wire.Frame) {
	if n.primary || !n.swap.asked || f.LSN != n.log.Sealed() || n.log.Durable() < f.LSN {
		n.s.lost(fmt.Errorf("the peer hands its role over at LSN %d, and this side is at %d", f.LSN, n.log.Durable()))
		return
	}
	n.promote("the primary handed its role over")
}

// heldBy reports whether a peer that says hello is the primary that was asked, demoted where this log ends:
// its grant was lost on the way.
func (n *Node) heldBy(h *wire.HelloMsg) bool {
	last, ok := n.log.Hash(n.log.Sealed())
	return n.swap.asked && !h.Primary && seglog.Marks(h.Marks)&seglog.Demoted != 0 && h.Volume == n.log.Super().Volume &&
		h.Term == n.term() && ok && h.Last == wire.Point{LSN: n.log.Sealed(), Hash: last} && n.log.Durable() == n.log.Sealed()
}

// roleWanted is the primary's: its peer asks for its role.
func (n *Node) roleWanted(f *wire.Frame) {
	wait, err := wire.DecodeWait(f.Body)
	if err == nil && n.o.Asked == nil {
		err = errors.New("asked for a role that this side cannot hand over")
	}
	if err != nil {
		n.s.lost(err)
		return
	}
	if err = n.canHandOver(); err == nil && n.swap.wanted {
		err = errors.New("it is being asked already")
	}
	if err != nil {
		n.answerKeep(err.Error())
		return
	}
	n.swap.wanted = true
	n.o.Asked(wait)
}

// canHandOver is why this side must keep its role, nil when it need not.
func (n *Node) canHandOver() error {
	switch {
	case !n.primary || n.fenced || n.failed != nil || n.swap.handed:
		return errors.New("it is no primary any more")
	case n.remoteMode || firstErr(n.cache.Lost()) != nil:
		return errors.New("the volume is remote: its own disk or log is lost there; --force takes its role")
	case n.draining:
		return errors.New("the volume is being ended there")
	case n.fill.active || n.replace || n.marks()&seglog.NeedsRefill != 0:
		return errors.New("its data disk is being replaced")
	case !n.ready:
		return errors.New("it does not serve yet")
	case n.full.active || n.lacks():
		return errors.New("this copy is not complete: wait until it is in sync")
	case !n.inSync():
		return fmt.Errorf("this copy is not in sync there (%s)", n.state)
	}
	return nil
}

// HandOver demotes a primary whose peer has asked for its role: as soon as everything sealed is durable on
// both sides this node serves nobody any more and says so in the log. It is to be called, between batches,
// until it is done, which is durable then. The client must be gone. After an error, KeepRole.
func (n *Node) HandOver() (done bool, err error) {
	x := &n.swap
	if !x.wanted {
		return false, errSwapLost
	}
	if !x.handed {
		if err := n.canHandOver(); err != nil {
			return false, err
		}
		n.cache.Hold(true) // nothing is sealed any more
		if !n.allDurable() {
			return false, nil
		}
		n.cache.Refuse(true)
		x.handed, x.marks = true, n.marks()
		x.ticket = n.demoted(true)
		n.event("role", "primary", "demoted", fmt.Sprintf("for the peer, at LSN %d, term %d", n.log.Sealed(), n.term().Number))
		if Planted && Plant == "swap-early" {
			n.Grant()
		}
	}
	return n.log.Updated() >= x.ticket, n.log.Err()
}

// Handed reports whether HandOver is done and the peer that asked is still there: the last look before
// the owner notes, durably, that this side starts as a secondary.
func (n *Node) Handed() bool {
	x := &n.swap
	return x.handed && x.wanted && n.log.Updated() >= x.ticket
}

// Grant tells the peer that the role is its own, and reports whether it was there to be told. Only after
// that note. The session ends when the peer has taken the role; this node then is of no use any more.
func (n *Node) Grant() bool {
	if !n.swap.wanted || !n.swap.handed {
		return false
	}
	f := n.frameOf(wire.MarkDone)
	f.Flags = wire.FactSwap
	return n.s.conn.Send(f)
}

// KeepRole answers a peer that asked for this primary's role with a refusal, and lets the volume go on
// as it was. Never after Grant.
func (n *Node) KeepRole(reason string) {
	x := n.swap
	n.swap = swap{}
	if n.ready {
		n.cache.Hold(false)
	}
	if x.handed {
		n.cache.Refuse(n.fenced || n.failed != nil)
		n.log.Update(func(s *seglog.Super) { s.Marks = s.Marks&^seglog.Demoted | x.marks })
		n.event("role", "demoted", "primary", reason)
		if !n.s.up && n.bound {
			n.unbind(n.s.lastErr)
		}
	}
	if x.wanted {
		n.answerKeep(reason)
	}
}

func (n *Node) answerKeep(reason string) {
	f := n.reasonOf(wire.MarkDone, reason)
	f.Flags = wire.FactKeep
	n.s.conn.Send(f)
}
