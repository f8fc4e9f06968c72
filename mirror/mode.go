package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
)

// Mode says what an acknowledgement stands for.
type Mode uint8

// Modes. DRBD's names C, A and B are accepted.
const (
	Sync     Mode = 1 // durable on both machines
	Async    Mode = 2 // durable here
	SemiSync Mode = 3 // durable here and received there
)

func (m Mode) String() string {
	switch m {
	case Async:
		return "async"
	case SemiSync:
		return "semisync"
	}
	return "sync"
}

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "sync", "C", "c", "":
		return Sync, nil
	case "async", "A", "a":
		return Async, nil
	case "semisync", "B", "b":
		return SemiSync, nil
	}
	return 0, fmt.Errorf("mode %q: use sync (durable on both machines), semisync (durable here, received there) or async (durable here)", s)
}

// ahead reports whether acknowledged writes may lack on the peer, so that its mark is always set.
func (m Mode) ahead() bool { return m == Async || m == SemiSync }

// SetMode changes the mode of a primary while it serves. What was acknowledged before the change
// is as safe as the old mode made it; a weaker mode counts once the mark that says so is durable,
// a stronger one once the peer has caught up.
func (n *Node) SetMode(m Mode) {
	if m == n.o.Mode || !n.primary {
		n.wanted = 0
		return
	}
	n.wanted, n.wantedAt = m, 0
	if m.ahead() {
		n.wantedAt = n.log.Update(func(s *seglog.Super) { s.Marks |= seglog.Ahead })
	}
}

// switchMode makes the wanted mode the one in force.
func (n *Node) switchMode() {
	if n.wanted == 0 || n.log.Updated() < n.wantedAt || n.log.Updated() < n.clearing {
		return
	}
	old := n.o.Mode
	n.o.Mode, n.wanted = n.wanted, 0
	if n.bound && old.ahead() {
		n.bound = false // tryBind waits for the peer, and only then the stronger mode's word counts
		n.tryBind()
	}
	n.s.beaten = 0 // the peer learns of it with a heartbeat, at once
	n.event("mode", old.String(), n.o.Mode.String(), "set by the user")
}
