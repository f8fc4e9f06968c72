package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// A primary that was heard a moment ago may only be starting again; it counts as lost when it has been silent for as
// long as a peer may be, and not while it tries to connect. A peer that is a secondary starts nothing.
func TestRestarting(t *testing.T) {
	const dead = 10_000_000 // Timing.PeerDead of the simulated pairs
	p := NewPair(5, mirror.Sync, t.Fatalf)
	defer p.Free()
	n := p.M[1].Node
	if n.Restarting() != 0 {
		t.Error("a primary that was never heard")
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	if n.Restarting() != 0 {
		t.Error("a primary that is connected")
	}
	p.Crash(0)
	p.Load = nil
	turnUntil(t, p, func() bool { return !n.Status().Connected })
	if left := n.Restarting(); left <= 0 || left > dead {
		t.Errorf("a primary that was heard just now: %d ns", left)
	}
	c := p.Net.Visit(Data) // it is back, and says nothing yet
	p.later(dead / 2)
	c.Send(stranger(n.Status().Volume))
	p.later(dead / 2)
	if n.Restarting() <= 0 {
		t.Error("a primary that is connecting")
	}
	c.Close()
	p.later(2 * dead)
	n.Kick(p.W.Time()) // the loop of one that waits sleeps, and a command wakes it
	if n.Restarting() != 0 {
		t.Error("a primary that is silent")
	}
	p.M[0].Primary = false
	p.Start(0)
	turnUntil(t, p, func() bool { return n.Status().LastError != "" && p.M[0].Node.Status().LastError != "" })
	p.later(dead / 4)
	if n.Restarting() != 0 {
		t.Error("a secondary")
	}
}
