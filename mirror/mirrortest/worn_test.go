package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// A connection whose keys are worn is replaced by another one, whichever side dials, under load: no write fails or
// is acknowledged alone for it, and nothing is synced anew.
func TestWornConnectionsAreReplaced(t *testing.T) {
	for _, r := range []struct {
		name string
		mode mirror.Mode
		then mirror.OnDisconnect
		swap bool // the primary is the side that listens
	}{
		{"sync, error", mirror.Sync, mirror.Error, false},
		{"sync, continue", mirror.Sync, mirror.Continue, false},
		{"semisync, suspend", mirror.SemiSync, mirror.Suspend, false},
		{"async, error", mirror.Async, mirror.Error, false},
		{"the primary listens", mirror.Sync, mirror.Error, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			p := newPair(7, r.mode, t.Fatalf, func(o *mirror.Options) { o.OnDisconnect = r.then }, seglog.PeerNeedsFullSync, r.swap, LogBytes)
			defer p.Free()
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
			if r.swap {
				if way := p.swapRoles(0, stumbles, 1); p.At != 1 {
					t.Fatal(way)
				}
				turnUntil(t, p, func() bool { return p.state(1) == mirror.StateInSync })
			}
			from := len(p.Events)
			p.Net.Wear = 60
			p.Load.ErrorsOK = true
			before := p.M[p.At].Node.Status().Sessions
			for range 10 {
				p.Load.Left = 100
				turnUntil(t, p, p.Load.Done)
				if m := p.M[p.At].Cache.Log().Super().Marks; m&seglog.Degraded != 0 {
					t.Fatalf("marks %v", m)
				}
			}
			log := strings.Join(p.Events[from:], "\n")
			if n := p.M[p.At].Node.Status().Sessions - before; n < 5 || p.Load.Errors > 0 || strings.Contains(log, "full sync") || strings.Contains(log, "map sync") {
				t.Errorf("%d new sessions, %d errors:\n%s", n, p.Load.Errors, log)
			}
			p.Net.Wear = 0
			p.converge()
		})
	}
}

// While no new connection can be made the old one goes on.
func TestWornConnectionGoesOn(t *testing.T) {
	p := NewPair(7, mirror.Sync, t.Fatalf)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Net.Wear = 1
	p.Net.Refuse[Data] = true
	sessions := p.M[0].Node.Status().Sessions
	p.Load.Left = 200
	turnUntil(t, p, p.Load.Done)
	if s := p.M[0].Node.Status(); s.Sessions != sessions || s.State != mirror.StateInSync {
		t.Errorf("%d sessions, %d before, %s", s.Sessions, sessions, s.State)
	}
	p.Net.Refuse[Data] = false
	turnUntil(t, p, func() bool { return p.M[0].Node.Status().Sessions > sessions })
	p.Net.Wear = 0
	p.converge()
}

// Nor does the I/O of a remote volume fail for it, whichever end of the old connection notices first.
func TestWornConnectionOfARemoteVolume(t *testing.T) {
	for seed := range uint64(8) {
		p := NewTunedPair(seed, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.OnDisconnect = mirror.Error })
		defer p.Free()
		turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
		if err := p.M[0].Node.Replace(); err != nil {
			t.Fatal(err)
		}
		turnUntil(t, p, func() bool { return p.state(0) == mirror.StateRemote })
		p.Load.ErrorsOK = true
		p.Net.Wear = 60
		before := p.M[0].Node.Status().Sessions
		for range 10 {
			p.Load.Left = 60
			turnUntil(t, p, p.Load.Done)
		}
		if n := p.M[0].Node.Status().Sessions - before; n < 5 || p.Load.Errors > 0 {
			t.Errorf("seed %d: %d new sessions, %d errors", seed, n, p.Load.Errors)
		}
	}
}
