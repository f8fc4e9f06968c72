package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// turns lets the world turn, also where nothing has a deadline.
func (p *Pair) turns(n int) {
	for range n {
		p.Turn()
	}
}

// Whichever side is disconnected by its user, there is no session until that is taken back; then the
// peer is brought level by itself.
func TestDisconnect(t *testing.T) {
	for side := range 2 {
		p := NewTunedPair(1, mirror.Sync, t.Fatalf, nil)
		p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
		sessions := func() int { return p.M[0].Node.Status().Sessions }
		p.M[side].Node.Disconnect(true)
		p.until("degraded", func() bool { return p.state(0) == mirror.StateDegraded })
		before := sessions()
		p.Load.Left = 100
		p.turns(5000)
		if !p.Load.Done() || sessions() != before || p.M[0].Node.Status().Connected {
			t.Errorf("side %d: load done %v, %d sessions, %d before", side, p.Load.Done(), sessions(), before)
		}
		for i := range p.M {
			if s := p.M[i].Node.Status(); !strings.Contains(s.LastError, "disconnected by the user") {
				t.Errorf("side %d says %q", i, s.LastError)
			}
		}
		p.M[side].Node.Disconnect(false)
		p.until("in sync again", func() bool { return p.state(0) == mirror.StateInSync })
		p.Free()
	}
}

// A sync that is paused goes no further, while writes go on to the peer; then it ends.
func TestPauseResync(t *testing.T) {
	p := NewTunedPair(1, mirror.Sync, t.Fatalf, nil)
	defer p.Free()
	done := func() int64 { return p.M[0].Node.Status().SyncDone }
	p.until("the sync has begun", func() bool { return p.state(0) == mirror.StateFullSync && done() > 0 })
	p.M[0].Node.PauseResync(true)
	p.turns(500)
	was := done()
	p.Load.Left = 50
	p.turns(5000)
	if done() != was || p.state(0) != mirror.StateFullSync || !p.Load.Done() {
		t.Errorf("%s, %d bytes, %d before", p.state(0), done(), was)
	}
	p.M[0].Node.PauseResync(false)
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
}
