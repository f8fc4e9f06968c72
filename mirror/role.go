package mirror

import (
	"errors"
	"fmt"
	"math"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// Level reports whether the peer has everything durably, and how many segments it lacks.
func (n *Node) Level() (level bool, lacks uint64) {
	if !n.s.up || n.full.active || n.lacks() || !n.allDurable() {
		return false, n.log.Sealed() - min(n.ship.durable, n.log.Sealed())
	}
	return true, 0
}

// allDurable reports whether everything sealed is durable on both sides.
func (n *Node) allDurable() bool {
	return n.ship.durable >= n.log.Sealed() && n.log.Durable() >= n.log.Sealed()
}

// Demote makes a primary that serves nobody any more a secondary: its chain stays, and says that
// what it declared durable was its own word. The ticket says when that is durable; the node then ends.
func (n *Node) Demote() (ticket uint64, err error) {
	switch {
	case !n.primary:
		return 0, errors.New("this is a secondary already")
	case n.remoteMode:
		return 0, errors.New("the volume is remote: its own disk or log is lost here; promote the peer")
	}
	n.cache.Hold(true) // nothing is sealed any more, no session made, and no mark changed that the next life goes by
	n.cache.Refuse(true)
	level, _ := n.Level()
	n.swap = swap{handed: true}
	n.s.goodbye("this side was demoted")
	n.s.lost(errors.New("demoted"))
	n.event("role", "primary", "secondary", fmt.Sprintf("demoted at LSN %d, term %d", n.log.Sealed(), n.term().Number))
	return n.demoted(level), nil
}

// demoted says in the log that this primary is none any more; level: whatever it acknowledged is on both sides.
func (n *Node) demoted(level bool) (ticket uint64) {
	return n.log.Update(func(s *seglog.Super) {
		if AsDemoted(s); level {
			s.Marks &^= seglog.Ahead
		}
	})
}

// AsDemoted turns a primary's superblock into that of a secondary which was one.
func AsDemoted(s *seglog.Super) {
	s.Marks = s.Marks&(seglog.Ahead|seglog.NeedsRefill) | seglog.Demoted
}

var errConnected = errors.New("the primary is connected and alive: stop it there first, or say --force")

// MayPromote is why this secondary must not become the primary, whoever says so.
func (n *Node) MayPromote() error {
	m := n.marks()
	switch {
	case n.primary:
		return errors.New("this is the primary already")
	case n.failed != nil:
		return fmt.Errorf("this copy cannot go on: %w", n.failed)
	case n.log.Super().Volume == seglog.UUID{}:
		return errors.New("this secondary has never met its primary: there is nothing to promote")
	case m&seglog.NeedsRefill != 0:
		return errors.New("this machine's disk missed writes while it was the primary: promoting it would give old data; bring the other one back")
	case m&seglog.Inconsistent != 0:
		return errors.New("this copy is incomplete (a full sync did not finish): promoting it would give a mixture of old and new data; bring the primary back")
	}
	return nil
}

// Promote makes a secondary the primary whose own primary is gone or, with force, shall be. Its term is
// durable before it serves. AskRole is for a primary that is there.
func (n *Node) Promote(force bool) error {
	err := n.Claim(force)
	n.Begin()
	return err
}

// Claim is Promote, but that the node serves nobody, and adds nothing to the log, before Begin: an owner
// that keeps a note of the role writes it once Claimed, and if it dies before, nothing has come of it.
func (n *Node) Claim(force bool) error {
	if err := n.MayPromote(); err != nil {
		return err
	}
	if n.s.up && !force {
		return errConnected
	}
	n.promote("by the user")
	return nil
}

// Claimed reports whether the term of a primary that waits for Begin is durable.
func (n *Node) Claimed() bool { return n.claimed && n.log.Updated() >= n.promoting }

// Begin lets a primary serve that claimed its role, by itself or upon AskRole.
func (n *Node) Begin() { n.claimed = false }

func (n *Node) promote(why string) {
	n.swap = swap{}
	n.s.goodbye("this side was promoted")
	n.s.lost(errors.New("promoted"))
	n.primary, n.claimed = true, true
	n.cache.Follow(false)
	n.cache.Hold(true)
	n.promoting = n.log.Update(func(s *seglog.Super) {
		s.Term = seglog.Term{Number: s.Term.Number + 1, ID: n.o.Random() | 1}
		s.Marks = seglog.HasPeer | seglog.Degraded | seglog.Ahead
	})
	// The old primary had everything that is not in this log any more: it was declared durable there.
	n.ship.close()
	n.ship.open(n.oldest() - 1)
	n.event("role", "secondary", "primary", fmt.Sprintf("promoted at LSN %d, term %d: %s", n.log.Sealed(), n.term().Number, why))
}

// takeTerm makes a primary reign in another term, durably; nothing is sealed meanwhile.
func (n *Node) takeTerm(number uint64, reason string) error {
	old := n.term().Number
	if err := n.log.Sync(n.log.Update(func(s *seglog.Super) { s.Term = seglog.Term{Number: number, ID: n.o.Random() | 1} }), n.o.Drive); err != nil {
		return fmt.Errorf("take term %d: %w", number, err)
	}
	n.event("term", fmt.Sprint(old), fmt.Sprint(number), reason)
	return nil
}

// Missing is what a promoted copy may lack of what the lost primary had.
type Missing struct {
	From, To     seglog.LSN // segments that the primary is known to have sealed and this side lacks; To 0: none
	Bytes        int64      // of log in them, at most; 0: not known
	SilentNanos  int64      // since the primary was last heard
	Acknowledged bool       // in async and semisync some of them, and what came after, may have been acknowledged
}

// Missing tells what promoting this secondary may lose.
func (n *Node) Missing() Missing {
	m := Missing{Acknowledged: n.o.Mode.ahead()}
	if n.s.heard > 0 {
		m.SilentNanos = n.now.Mono - n.s.heard
	}
	if n.s.peerSealed > n.log.Sealed() {
		m.From, m.To, m.Bytes = n.log.Sealed()+1, n.s.peerSealed, n.behind.lacks(n.log)
	}
	return m
}

// behind is what the primary last said of what it does not know to be durable here.
type behind struct {
	wire.Backlog
	block int64 // that its log pads segments to, in bytes
}

// lacks is how much of it this log does not hold, in bytes of the primary's log.
func (b *behind) lacks(l *seglog.Log) int64 {
	if b.block == 0 {
		return 0
	}
	left := int64(min(b.Bytes, math.MaxInt64))
	for lsn := max(b.From, l.First()); lsn <= l.Sealed(); lsn++ {
		s, _ := l.Lookup(lsn)
		left -= (int64(s.Bytes) + b.block - 1) / b.block * b.block
	}
	return max(left, 0)
}

// Restarting is for how long, in ns, a primary that is not connected may only be starting again: it was heard a
// moment ago. 0: it counts as lost, is connected, or is none any more.
func (n *Node) Restarting() int64 {
	if n.primary || n.s.up || !n.s.ofPrimary {
		return 0
	}
	return max(n.s.heard+n.o.Timing.PeerDead-n.now.Mono, 0)
}

// takeBacklog is the secondary's: it takes what a heartbeat says beside itself.
func (n *Node) takeBacklog(f *wire.Frame) error {
	if len(f.Body) == 0 {
		return nil // an older primary
	}
	l, err := wire.DecodeBacklog(f.Body)
	if err != nil {
		return err
	}
	n.behind = behind{l, max(int64(n.s.hello.LogBlock), 1)}
	return nil
}

// addBacklog is the primary's: it says in a heartbeat what the peer may lack, if the peer understands it.
func (n *Node) addBacklog(f *wire.Frame) {
	if n.s.hello.Offered&wire.FeatureLag == 0 {
		return
	}
	wire.Backlog{From: n.lag.level() + 1, Bytes: uint64(n.lag.inLog())}.Put(n.backlog[:])
	f.Body = n.backlog[:]
}
