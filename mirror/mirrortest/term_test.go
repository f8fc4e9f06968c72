package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

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
