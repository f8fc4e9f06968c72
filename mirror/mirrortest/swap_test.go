package mirrortest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// roles goes on with a swap after each turn: the old primary hands over, the new one notes that it is one.
func (p *Pair) roles(to int) {
	p.Turn()
	if m := p.M[to]; m.Node != nil && m.Node.Claimed() && p.W.Rand.IntN(3) == 0 {
		m.Primary = true
		m.Node.Begin()
		p.attach(to)
	}
}

// stumble is one bad thing that happens to a swap, and what undoes it.
func (p *Pair) stumble(what, from, to int) (undo func()) {
	crash := func(i int) {
		if p.M[i].Primary {
			p.Load = nil
		}
		p.Crash(i)
	}
	start := func(i int) {
		p.Reattach = p.W.Rand.IntN(2) == 0 // the supervisor's next server asks nobody
		p.Start(i)
		p.Reattach = false
	}
	switch what {
	case 0:
		p.Net.Break(Data)
	case 1:
		p.Net.Cut = [2]bool{true, true}
		return func() { p.Net.Cut = [2]bool{} }
	case 2:
		p.Net.Cut = [2]bool{from == 0, from == 1} // what the old primary says does not arrive
		return func() { p.Net.Cut = [2]bool{} }
	case 3:
		crash(from)
		return func() { start(from) }
	case 4:
		crash(to)
		return func() { start(to) }
	case 5:
		crash(from)
		crash(to)
		return func() { start(from); start(to) }
	}
	return func() {}
}

// stumbles is how many there are.
const stumbles = 6

// swapRoles has the secondary ask for the primary's role; in turn at something happens that is undone for
// turns later. At the end one of them is the primary, by the user's word where nobody is; it says which way it went.
func (p *Pair) swapRoles(at, what, for_ int) string {
	from, to := p.At, 1-p.At
	if err := p.M[to].Node.AskRole(handWait); err != nil {
		fail("ask for the role: %v", err)
	}
	asker, begun := p.M[to].Node, p.W.Now
	undo := func() {}
	for n := 0; n < 60000; n++ {
		switch n {
		case at:
			undo = p.stumble(what, from, to)
		case at + for_:
			undo()
			undo = func() {}
		}
		p.roles(to)
		same := p.M[to].Node == asker
		waits := false
		if same {
			if waits, _ = asker.RoleAsked(); waits && p.W.Now > begun+askWait {
				asker.WithdrawRole()
			}
		}
		if n > at+for_ && p.hand == nil && !waits && (!same || p.M[to].Primary || !asker.Status().Primary) {
			break
		}
	}
	undo()
	way := "swapped"
	switch {
	case p.M[from].Primary:
		way = "kept"
	case !p.M[to].Primary: // nobody is: the user says who
		way = "promoted by hand"
		i := p.W.Rand.IntN(2)
		if err := p.M[i].Node.Promote(false); err != nil {
			fail("promote %d after the swap failed: %v", i, err)
		}
		p.until("the promoted one serves", func() bool { return p.M[i].Node.Ready() })
		p.M[i].Primary = true
		p.attach(i)
	}
	p.until("the primary serves", func() bool { return p.M[p.At].Node.Ready() && p.Load.Done() })
	if err := p.Oracle.Pin(p.readAll(p.At), 0); err != nil {
		fail("after a swap of roles (%s): %v", way, err)
	}
	p.Events = append(p.Events, fmt.Sprintf("%d: roles %s, machine %d is the primary", p.W.Now, way, p.At))
	return way
}

// swap is a disturbance: roles are swapped under load, with or without something that happens meanwhile.
func (p *Pair) swap() {
	p.until("in sync", func() bool { return p.state(p.At) == mirror.StateInSync })
	for range p.W.Rand.IntN(40) {
		p.Load.Left = max(p.Load.Left, 3)
		p.Turn()
	}
	if p.state(p.At) != mirror.StateInSync || !p.M[1-p.At].Node.Status().Connected {
		return // or the other one knows already that it is not, or that the session is replaced
	}
	p.swapRoles(p.W.Rand.IntN(120), p.W.Rand.IntN(stumbles+2), p.W.Rand.IntN(300))
}

// One planned swap, and one bad thing in each of its turns: one side at most is ever a primary, and
// nothing that was acknowledged is lost.
func TestSwapInterruptedAnywhere(t *testing.T) {
	ways := map[string]int{}
	one := func(at, what int) (err error) {
		seed := uint64(at*stumbles + what)
		mode := []mirror.Mode{mirror.Sync, mirror.Async, mirror.SemiSync}[seed%3]
		p := newPair(seed%8, mode, fail, nil, seglog.AssumedClean, true, LogBytes)
		defer p.Free()
		defer catch(seed, &p, &err)
		p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
		p.Load.Left = 30
		p.until("half of the load", func() bool { return p.Load.Left < 15 && p.state(0) == mirror.StateInSync })
		ways[p.swapRoles(at, what, 40+at%3*400)]++
		p.converge()
		return nil
	}
	step := 1
	if blktest.Raced {
		step = 7
	}
	for at := 0; at < 90; at += step {
		for what := range stumbles {
			if err := one(at, what); err != nil {
				t.Fatalf("turn %d, %d: %v", at, what, err)
			}
		}
	}
	t.Log(ways)
	for _, w := range []string{"swapped", "kept", "promoted by hand"} {
		if ways[w] == 0 {
			t.Errorf("never: %s", w)
		}
	}
}

// Swaps among all other disturbances.
func TestSwapSimulation(t *testing.T) {
	for _, mode := range []mirror.Mode{mirror.Sync, mirror.Async, mirror.SemiSync} {
		n, ways := blktest.Seeds(t, 30), map[string]int{}
		for seed := range uint64(n) {
			p, err := run(seed, mode, true)
			if err != nil {
				t.Fatalf("%v: %v", mode, err)
			}
			for _, e := range p.Events {
				if _, w, ok := strings.Cut(e, ": roles "); ok {
					way, _, _ := strings.Cut(w, ",")
					ways[way]++
				}
			}
			p.Free()
		}
		t.Logf("%v: %d seeds, roles %v", mode, n, ways)
		for _, w := range []string{"swapped", "kept"} {
			if ways[w] == 0 && !blktest.Raced { // so few seeds need not meet all
				t.Errorf("%v: never: %s", mode, w)
			}
		}
	}
}

// asksPair is a pair in sync whose primary hands its role over.
func asksPair(t *testing.T, tune func(*mirror.Options)) *Pair {
	t.Helper()
	p := NewTunedPair(6, mirror.Sync, t.Fatalf, func(o *mirror.Options) {
		o.Asked = func(int64) {}
		if tune != nil {
			tune(o)
		}
	})
	t.Cleanup(p.Free)
	return p
}

// wrote is such a pair in sync after some requests.
func wrote(t *testing.T, requests int) *Pair {
	t.Helper()
	p := asksPair(t, nil)
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.Left = requests
	turnUntil(t, p, p.Load.Done)
	return p
}

// What keeps a primary from handing its role over is said to who asks, and nothing changes.
func TestRoleIsKept(t *testing.T) {
	p := asksPair(t, nil)
	sec := p.M[1].Node
	refused := func(want string) {
		t.Helper()
		turnUntil(t, p, func() bool { waits, _ := sec.RoleAsked(); return !waits })
		if _, err := sec.RoleAsked(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if p.M[0].Cache.Log().Super().Marks&seglog.Demoted != 0 || !p.M[0].Node.Ready() || sec.Status().Primary {
			t.Error("something changed")
		}
	}
	if err := sec.AskRole(handWait); err == nil {
		t.Error("asked before the first session")
	}
	turnUntil(t, p, func() bool { return p.state(1) == mirror.StateFullSync })
	if err := sec.AskRole(handWait); err == nil || !strings.Contains(err.Error(), "incomplete") {
		t.Errorf("during a full sync: %v", err)
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	ask := func() {
		t.Helper()
		if err := sec.AskRole(handWait); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if err := sec.AskRole(handWait); err == nil {
		t.Error("asked twice")
	}
	for range 100 {
		p.Turn()
	}
	p.M[0].Node.KeepRole("/dev/x is mounted on /mnt")
	refused("mounted on /mnt")
	if err := p.M[0].Node.Replace(); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateRemote })
	ask()
	refused("remote")
	p.Net.Cut = [2]bool{true, true}
	turnUntil(t, p, func() bool { return !sec.Status().Connected })
	if err := sec.AskRole(handWait); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("without a session: %v", err)
	}
}

// A primary that does not know how is not asked: the user has to stop it, or to say --force.
func TestOlderPrimaryIsNotAsked(t *testing.T) {
	p := NewPair(6, mirror.Sync, t.Fatalf)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	if err := p.M[1].Node.AskRole(handWait); err == nil || !strings.Contains(err.Error(), "stop it there first, or say --force") {
		t.Fatal(err)
	}
	for range 100 {
		p.Turn()
	}
	if st := p.M[1].Node.Status(); !st.Connected || st.Sessions != 1 {
		t.Error("the session did not live on")
	}
}

// A demotion that cannot be gone through with is taken back, as if it had never been: also when the peer
// is lost meanwhile.
func TestHandOverIsTakenBack(t *testing.T) {
	for _, cut := range []bool{false, true} {
		p := wrote(t, 50)
		if err := p.M[1].Node.AskRole(handWait); err != nil {
			t.Fatal(err)
		}
		pri := p.M[0].Node
		turnUntil(t, p, func() bool { done, _ := pri.HandOver(); return done })
		if pri.Ready() || p.M[0].Cache.Log().Super().Marks != seglog.Demoted {
			t.Fatalf("ready %v, marks %v", pri.Ready(), p.M[0].Cache.Log().Super().Marks)
		}
		if cut {
			p.Net.Cut = [2]bool{true, true}
			turnUntil(t, p, func() bool { return !pri.Status().Connected })
			if pri.Handed() || pri.Grant() {
				t.Error("a role for nobody")
			}
		}
		pri.KeepRole("the configuration cannot be written")
		p.Net.Cut = [2]bool{}
		p.Load.Left = 50
		turnUntil(t, p, func() bool { return p.Load.Done() && p.state(0) == mirror.StateInSync })
		if p.M[0].Cache.Log().Super().Marks&seglog.Demoted != 0 {
			t.Error("still marked demoted")
		}
		waits, err := p.M[1].Node.RoleAsked()
		if waits || err == nil {
			t.Errorf("cut %v: the peer waits %v, %v", cut, waits, err)
		}
		p.converge()
	}
}

// The grant is lost on the way, and the old primary comes back as a secondary: that says the same.
func TestLostGrantIsMadeUpForByTheHello(t *testing.T) {
	p := wrote(t, 50)
	if err := p.M[1].Node.AskRole(handWait); err != nil {
		t.Fatal(err)
	}
	pri := p.M[0].Node
	turnUntil(t, p, func() bool { done, _ := pri.HandOver(); return done && pri.Handed() })
	p.Net.Tap = func(from int, f *wire.Frame) {
		if f.Kind == wire.MarkDone && f.Flags == wire.FactSwap {
			p.Net.Cut = [2]bool{true, true}
		}
	}
	if !pri.Grant() {
		t.Fatal("the peer is gone")
	}
	p.M[0].Primary, p.Load = false, nil
	turnUntil(t, p, func() bool { return !p.M[1].Node.Status().Connected })
	if waits, _ := p.M[1].Node.RoleAsked(); !waits || p.M[1].Node.Status().Primary {
		t.Fatal("it does not wait for the answer any more")
	}
	p.Crash(0)
	p.Start(0)
	p.Net.Tap, p.Net.Cut = nil, [2]bool{}
	turnUntil(t, p, p.M[1].Node.Claimed)
	p.M[1].Primary = true
	p.M[1].Node.Begin()
	p.attach(1)
	p.converge()
}

// A promoted side whose owner has not noted it adds nothing to the chain, and serves nobody: it may die,
// and the other one be promoted instead.
func TestClaimLeavesNothing(t *testing.T) {
	p := wrote(t, 20)
	turnUntil(t, p, func() bool { level, _ := p.M[0].Node.Level(); return level })
	p.Crash(0)
	p.Load = nil
	sec := p.M[1].Node
	turnUntil(t, p, func() bool { return !sec.Status().Connected })
	if err := sec.Claim(false); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, sec.Claimed)
	at := p.M[1].Cache.Log().Sealed()
	for range 50 { // an idle primary declares what is durable
		p.W.AdvanceTo(p.W.Now + 20_000_000)
		p.Turn()
	}
	if now := p.M[1].Cache.Log().Sealed(); now != at || sec.Ready() {
		t.Fatalf("LSN %d became %d, ready %v", at, now, sec.Ready())
	}
	p.Crash(1)
	p.Start(1)
	p.Start(0)
	turnUntil(t, p, func() bool { return p.M[0].Node.Status().State == mirror.StateFenced })
	p.Crash(0)
	p.M[0].Primary, p.Load = false, nil
	p.Start(0)
	if err := p.M[0].Node.Promote(false); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.M[0].Primary = true
	p.attach(0)
	p.converge()
}

// A demoted node adds nothing to its chain, says nothing of it but that it is demoted, and does not come
// back to its peer as the primary that it was.
func TestDemotedStandsStill(t *testing.T) {
	p := wrote(t, 20)
	pri, l := p.M[0].Node, p.M[0].Cache.Log()
	turnUntil(t, p, func() bool { level, _ := pri.Level(); return level })
	ticket, err := pri.Demote()
	if err != nil {
		t.Fatal(err)
	}
	at, sessions := l.Sealed(), p.M[1].Node.Status().Sessions
	for range 50 {
		p.W.AdvanceTo(p.W.Now + 20_000_000)
		p.Turn()
	}
	if l.Updated() < ticket || l.Sealed() != at || l.Super().Marks != seglog.Demoted {
		t.Errorf("LSN %d became %d, marks %v", at, l.Sealed(), l.Super().Marks)
	}
	if st := p.M[1].Node.Status(); st.Connected || st.Sessions != sessions {
		t.Errorf("the peer is %s after %d sessions, before %d", st.State, st.Sessions, sessions)
	}
}
