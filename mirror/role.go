package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
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
	n.cache.Refuse(true)
	level, _ := n.Level()
	n.s.goodbye("this side was demoted")
	n.s.lost(errors.New("demoted"))
	n.event("role", "primary", "secondary", fmt.Sprintf("demoted at LSN %d, term %d", n.log.Sealed(), n.term().Number))
	return n.log.Update(func(s *seglog.Super) {
		if AsDemoted(s); level {
			s.Marks &^= seglog.Ahead // whatever it acknowledged is on both sides
		}
	}), nil
}

// AsDemoted turns a primary's superblock into that of a secondary which was one.
func AsDemoted(s *seglog.Super) {
	s.Marks = s.Marks&(seglog.Ahead|seglog.NeedsRefill) | seglog.Demoted
}

// Missing is what a promoted copy may lack of what the lost primary had.
type Missing struct {
	From, To     seglog.LSN // segments that the primary is known to have sealed and this side lacks; To 0: none
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
		m.From, m.To = n.log.Sealed()+1, n.s.peerSealed
	}
	return m
}
