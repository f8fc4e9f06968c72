package mirrortest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// A peer that was promoted and demoted again without having written anything does not keep the old primary from going
// on, in a term above the peer's; one that wrote does.
func TestDemotedPeerThatWroteNothing(t *testing.T) {
	for _, wrote := range []bool{false, true} {
		t.Run(fmt.Sprint("wrote ", wrote), func(t *testing.T) {
			p := NewPair(5, mirror.Sync, t.Fatalf)
			defer p.Free()
			p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
			p.write(0, 0, 4096, 100)
			p.turns(500)
			p.Net.Cut = [2]bool{true, true}
			p.Crash(0)
			p.Load = nil
			p.until("alone", func() bool { return !p.M[1].Node.Status().Connected })
			if err := p.M[1].Node.Promote(false); err != nil {
				t.Fatal(err)
			}
			p.until("promoted", func() bool { return p.M[1].Node.Ready() })
			if wrote {
				p.write(1, 4096, 4096, 101)
			}
			p.restart(1, false, nil)
			p.Start(0)
			p.Net.Cut = [2]bool{}
			if wrote {
				p.until("fenced", func() bool { return p.state(0) == mirror.StateFenced })
				return
			}
			p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
			p.write(0, 4096, 4096, 102)
			p.turns(500)
			for i := range p.M {
				holds(p.readAll(i), 0, 100)
				holds(p.readAll(i), 4096, 102)
				if term := p.M[i].Node.Status().Term.Number; term != 3 {
					t.Errorf("machine %d has term %d", i, term)
				}
			}
			p.Crash(0)
			p.Start(0) // what was written in that term is found again
			p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
			holds(p.readAll(0), 4096, 102)
		})
	}
}

// The old primary comes back after so long that it gets a map sync, for which it first destages what its log
// holds. Until then it says the old term, in a session that was agreed upon with the new one.
func TestOldTermWhileASyncIsPrepared(t *testing.T) {
	p := NewTunedPair(6, mirror.Sync, t.Fatalf, nil)
	defer p.Free()
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.Left = 60
	p.until("the load ends", func() bool { return p.Load.Done() && p.state(0) == mirror.StateInSync })
	old, now := p.M[0], p.M[1]
	old.Cache.HoldDestage(true)
	p.Load.Left = 20
	p.until("the load ends", func() bool { return p.Load.Done() && p.state(0) == mirror.StateInSync })
	p.Crash(0)
	p.until("it is lost", func() bool { return !now.Node.Status().Connected })
	if err := now.Node.Promote(false); err != nil {
		t.Fatal(err)
	}
	old.Primary, now.Primary = false, true
	p.until("the new one serves", func() bool { return now.Node.Ready() })
	p.Load = blktest.NewWorkload(p.W, blktest.NewCheck(now.Node.Device(), t.Fatalf), p.Oracle, 8, t.Fatalf)
	p.Load.MaxBytes = 6 << 10
	head := now.Cache.Log().Head()
	p.until("the log comes round", func() bool {
		p.Load.Left = max(p.Load.Left, 20)
		return now.Cache.Log().Head() > head+2*LogBytes
	})
	p.Load.Left = 0
	p.Start(0)
	log := old.Cache.Log()
	if err := log.Sync(log.Update(mirror.AsDemoted), p.W.Drive); err != nil {
		t.Fatal(err)
	}
	if old.Cache.Dirty() == 0 {
		t.Fatal("there is nothing to destage first")
	}
	begun, sessions := len(p.Events), now.Node.Status().Sessions
	p.until("in sync", func() bool { return p.state(1) == mirror.StateInSync })
	got := strings.Join(p.Events[begun:], "\n")
	if !strings.Contains(got, "→up: map sync") || strings.Contains(got, "older term") || now.Node.Status().Sessions != sessions+1 {
		t.Errorf("%d sessions:\n%s", now.Node.Status().Sessions-sessions, got)
	}
}
