package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// In the steady state, with a peer in sync and with one that is away, no batch of the primary's asks for another one
// at once: each costs a system call and its work again.
func TestNoBatchIsWasted(t *testing.T) {
	for _, away := range []bool{false, true} {
		for _, mode := range []mirror.Mode{mirror.Sync, mirror.SemiSync, mirror.Async} {
			p := NewPair(6, mode, t.Fatalf)
			defer p.Free()
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
			p.Load.Left = 0
			for _, m := range p.M {
				m.Cache.DestageAll(true)
			}
			turnUntil(t, p, func() bool { return p.Load.Done() && p.M[0].Cache.Dirty() == 0 && p.state(0) == mirror.StateInSync })
			p.turns(500)
			for _, m := range p.M {
				m.Cache.DestageAll(false)
			}
			if away {
				p.Crash(1)
				p.Net.Deaf = true // and nobody dials meanwhile
				turnUntil(t, p, func() bool { return p.state(0) == mirror.StateDegraded })
			}
			for _, m := range p.M {
				if m.Node != nil {
					m.Cache.PauseDestage(true)
				}
			}
			p.turns(500)
			const writes = 30
			batches, again := 0, 0
			for i := range int64(writes) {
				w := p.submit(0, i*512, 512, uint64(1000+i))
				for !w.done {
					now := p.W.Now
					p.Turn()
					batches++
					if p.M[0].wake <= now {
						again++
					}
				}
			}
			t.Logf("%v, away %v: %d batches for %d writes, %d of them asked for another one at once", mode, away, batches, writes, again)
			if again > 0 {
				t.Errorf("%v, away %v: %d of %d batches asked for another one at once", mode, away, again, batches)
			}
		}
	}
}
