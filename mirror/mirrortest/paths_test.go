package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// Where there is another path to the peer, the loss of the one in use neither fails a write nor degrades the volume:
// what becomes of writes is decided once that path was tried, or did not answer in time, too.
func TestTheOtherPathIsTriedFirst(t *testing.T) {
	const bound = 10_000_000 // Timing.Paths of the simulated pairs
	for _, r := range []struct {
		name  string
		paths int
		mode  mirror.Mode
		then  mirror.OnDisconnect
		lost  func(n *Net) // what else is the matter
		acts  bool         // the policy
	}{
		{"sync, error", 2, mirror.Sync, mirror.Error, nil, false},
		{"sync, continue", 2, mirror.Sync, mirror.Continue, nil, false},
		{"sync, suspend", 2, mirror.Sync, mirror.Suspend, nil, false},
		{"semisync, continue", 2, mirror.SemiSync, mirror.Continue, nil, false},
		{"async, error", 2, mirror.Async, mirror.Error, nil, false},
		{"async, continue", 2, mirror.Async, mirror.Continue, nil, true}, // its writes wait for nobody
		{"one path", 1, mirror.Sync, mirror.Error, nil, true},
		{"no path left, continue", 2, mirror.Sync, mirror.Continue, func(n *Net) { n.Refuse[Data] = true }, true},
		{"no path left, error", 2, mirror.Sync, mirror.Error, func(n *Net) { n.Refuse[Data] = true }, true},
		{"no answer", 2, mirror.Sync, mirror.Continue, func(n *Net) { n.Deaf = true }, true},
		{"no answer, async", 2, mirror.Async, mirror.Suspend, func(n *Net) { n.Deaf = true }, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			p := NewTunedPair(5, r.mode, t.Fatalf, func(o *mirror.Options) { o.OnDisconnect = r.then })
			defer p.Free()
			p.Net.Ways = r.paths
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
			p.Load.ErrorsOK = true
			log := p.M[0].Cache.Log()
			for round := range 3 {
				p.Load.Reads, p.Load.Flushes, p.Load.Left = 0, 0, 40
				p.turns(20)
				if r.lost != nil {
					r.lost(p.Net)
				}
				p.Net.Break(Data)
				turnUntil(t, p, func() bool { return !p.M[0].Node.Status().Connected })
				begun, acked := p.W.Now, p.Load.Acked
				acts := func() bool {
					return log.Super().Marks&seglog.Degraded != 0 || p.Load.Errors > 0 || p.said("0 writes served→")
				}
				if r.acts {
					p.until("the policy acts", acts)
					if after := p.W.Now - begun; after > 2*bound {
						t.Errorf("it acts after %d ns", after)
					}
					return
				}
				ack := false
				for !p.M[0].Node.Status().Connected {
					p.Turn()
					ack = ack || p.Load.Acked > acked+8 || log.Super().Marks&seglog.Degraded != 0 // what the peer had, and the answers that were on their way
				}
				p.until("it goes on", func() bool { return p.Load.Done() && p.state(0) == mirror.StateInSync })
				if acts() || ack {
					t.Fatalf("round %d: marks %v, %d errors, acknowledged without the peer %v:\n%s", round, log.Super().Marks, p.Load.Errors, ack, strings.Join(p.Events, "\n"))
				}
			}
			p.converge()
		})
	}
}

// Nor is the I/O of a remote volume failed before.
func TestTheOtherPathOfARemoteVolume(t *testing.T) {
	p := NewTunedPair(5, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.OnDisconnect = mirror.Error })
	defer p.Free()
	p.Net.Ways = 2
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.ErrorsOK = true
	if err := p.M[0].Node.Replace(); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateRemote })
	for range 3 {
		p.Load.Left = 20
		p.turns(5)
		p.Net.Break(Data)
		turnUntil(t, p, func() bool { return !p.M[0].Node.Status().Connected })
		turnUntil(t, p, p.Load.Done)
	}
	if p.Load.Errors > 0 {
		t.Errorf("%d errors", p.Load.Errors)
	}
	p.Net.Refuse[Data] = true
	p.Net.Break(Data)
	p.Load.Left = 20
	p.until("it fails once no path is left", func() bool { return p.Load.Errors > 0 })
}
