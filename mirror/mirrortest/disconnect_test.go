package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// away is a pair in sync whose link is then cut, under load.
func away(t *testing.T, mode mirror.Mode, d mirror.OnDisconnect) *Pair {
	t.Helper()
	p := NewTunedPair(5, mode, t.Fatalf, func(o *mirror.Options) { o.OnDisconnect = d })
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.ErrorsOK = true
	p.Load.Left = 20
	turnUntil(t, p, p.Load.Done)
	p.Net.Cut = [2]bool{true, true}
	p.Load.Reads = 0
	p.Load.Flushes = 0
	p.Load.Left = 500
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateSuspended })
	return p
}

// With suspend nothing is acknowledged that is not on both sides, the volume is never marked degraded,
// and everything goes on when the peer is back.
func TestSuspend(t *testing.T) {
	for _, mode := range []mirror.Mode{mirror.Sync, mirror.Async} {
		p := away(t, mode, mirror.Suspend)
		acked, errs := p.Load.Acked, p.Load.Errors
		for range 500 {
			p.Turn()
		}
		if p.Load.Acked != acked || p.Load.Errors != errs {
			t.Fatalf("%v: %d acknowledged and %d failed while the peer is away", mode, p.Load.Acked-acked, p.Load.Errors-errs)
		}
		if p.M[0].Cache.Log().Super().Marks&seglog.Degraded != 0 {
			t.Fatalf("%v: marked degraded", mode)
		}
		p.Net.Cut = [2]bool{}
		turnUntil(t, p, p.Load.Done)
		p.converge()
		if p.Load.Errors > 0 {
			t.Fatalf("%v: %d errors", mode, p.Load.Errors)
		}
	}
}

// With error writes fail until then; told to continue meanwhile, the volume degrades.
func TestErrorThenContinue(t *testing.T) {
	p := away(t, mirror.Sync, mirror.Error)
	errs := p.Load.Errors
	turnUntil(t, p, func() bool { return p.Load.Errors > errs+20 })
	p.M[0].Node.SetOnDisconnect(mirror.Continue)
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateDegraded })
	errs = p.Load.Errors
	turnUntil(t, p, p.Load.Done)
	if p.Load.Errors > errs+8 {
		t.Fatalf("%d errors although writes go on", p.Load.Errors-errs)
	}
	p.Net.Cut = [2]bool{}
	p.converge()
}

// A remote volume's I/O waits for a peer that is away, for as long as it may, and with error fails at once; what
// is set meanwhile counts at once, and when the peer is back everything goes on.
func TestRemoteWithoutPeer(t *testing.T) {
	const remote = 50e6 // Timing.Remote of the simulated pairs
	for _, d := range []mirror.OnDisconnect{mirror.Continue, mirror.Suspend, mirror.Error} {
		t.Run(d.String(), func(t *testing.T) {
			p := NewTunedPair(5, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.OnDisconnect = d })
			defer p.Free()
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
			p.Load.ErrorsOK = true
			if err := p.M[0].Node.Replace(); err != nil {
				t.Fatal(err)
			}
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateRemote })
			p.Net.Cut = [2]bool{true, true}
			turnUntil(t, p, func() bool { return !p.M[0].Node.Status().Connected })
			lost := p.W.Now
			p.Load.Left = 100
			turnUntil(t, p, func() bool { return p.Load.Errors > 0 })
			if after := p.W.Now - lost; (d == mirror.Error) != (after < remote/4) {
				t.Errorf("I/O fails %d ns after the peer was lost", after)
			}
			p.M[0].Node.SetOnDisconnect(mirror.Error)
			turnUntil(t, p, p.Load.Done)
			p.Net.Cut = [2]bool{}
			turnUntil(t, p, func() bool { return p.M[0].Node.Status().Connected })
			errs := p.Load.Errors
			p.Load.Left = 20
			turnUntil(t, p, p.Load.Done)
			if p.Load.Errors != errs {
				t.Errorf("%d errors although the peer is back", p.Load.Errors-errs)
			}
			// Told to fail, and then to wait, before the time is over.
			p.Net.Cut = [2]bool{true, true}
			turnUntil(t, p, func() bool { return !p.M[0].Node.Status().Connected })
			p.Load.Left = 100
			turnUntil(t, p, func() bool { return p.Load.Errors > errs })
			p.M[0].Node.SetOnDisconnect(mirror.Continue)
			p.Turn()
			errs = p.Load.Errors
			p.Net.Cut = [2]bool{}
			turnUntil(t, p, p.Load.Done)
			if p.Load.Errors > errs+8 {
				t.Errorf("%d errors although I/O waits", p.Load.Errors-errs)
			}
		})
	}
}
