package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// pass turns the world for ns of its time, and has the client write one request each every ns (0: none).
func (p *Pair) pass(ns, every int64) {
	for end, next := p.W.Now+ns, p.W.Now; p.W.Now < end; p.Turn() {
		if p.Load.Reads, p.Load.Flushes = 0, 0; every > 0 && p.W.Now >= next {
			p.Load.Left, next = 1, next+every
		}
	}
}

// What status says of a peer that is behind: why, how far in bytes and seconds, how fast it comes closer, and when it cannot.
func TestCatchUpInStatus(t *testing.T) {
	const second, rate = 1_000_000_000, 16 << 10
	p := NewTunedPair(9, mirror.Async, t.Fatalf, func(o *mirror.Options) { o.Timing.Ship = 1 }) // what is sealed is sent: nothing lags by intent
	defer p.Free()
	status := func() mirror.CatchUp { return p.M[0].Node.Status().CatchUp }
	near := func(what string, got, want, off float64) {
		t.Helper()
		if got < want-off || got > want+off {
			t.Errorf("%s: %.2f, want %.2f", what, got, want)
		}
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.Discards, p.Load.Zeroes, p.Load.MaxBytes = 0, 0, 4<<10 // with larger ones four seconds of them might not fit the log
	p.pass(2*second, 0)
	if c := status(); c.Why != "" || c.BacklogBytes != 0 || c.BacklogNanos != 0 || c.EtaNanos != 0 || c.CannotKeepUp {
		t.Errorf("level: %+v", c)
	}

	// Away for four seconds, and written all the time.
	p.pass(6*second, second/8)
	p.Net.Cut = [2]bool{true, true}
	head := p.M[0].Cache.Log().Head()
	p.pass(4*second, second/8)
	wrote := float64(p.M[0].Cache.Log().Head() - head)
	c := status()
	if !strings.HasPrefix(c.Why, "the peer is away: ") || c.EtaNanos != -1 || c.CannotKeepUp || c.ShipRate != 0 {
		t.Errorf("away: %+v", c)
	}
	near("bytes that it lacks", float64(c.BacklogBytes), wrote, 4<<10)
	near("seconds that it is behind", float64(c.BacklogNanos)/second, 4, 0.3)
	near("writes each second", c.WriteRate, wrote/4, wrote/16)

	// Back, over a link that takes three times what is written.
	if err := p.M[0].Node.SetRateLimit(4 * rate); err != nil {
		t.Fatal(err)
	}
	p.Net.Cut = [2]bool{}
	turnUntil(t, p, func() bool { return p.M[0].Node.Status().Connected })
	p.pass(second*3/4, second/8)
	c = status()
	if !strings.Contains(c.Why, "stream: ") || !strings.Contains(c.Why, "away for 4.0 s: nothing heard") || c.CannotKeepUp {
		t.Errorf("catching up: %+v", c)
	}
	near("shipped each second", c.ShipRate, 4*rate, rate)
	at := p.W.Now
	for range 200 {
		if p.pass(second/8, second/8); status().BacklogBytes == 0 {
			break
		}
	}
	// Level can be seen between two writes only, an eighth of a second apart.
	near("seconds until it is level", float64(p.W.Now-at)/second, float64(c.EtaNanos)/second, 1)
	if err := p.M[0].Node.SetRateLimit(rate); err != nil {
		t.Fatal(err)
	}
	p.pass(10*second, 0)

	// Twice as much is written as the link takes.
	p.pass(6*second, second/10)
	if c = status(); !c.CannotKeepUp || !strings.Contains(c.Why, "rate limit") || c.EtaNanos != -1 || c.WriteRate < c.ShipRate || c.BacklogBytes < rate {
		t.Errorf("too much is written: %+v", c)
	}
	// Until the log is full, and admits no more than is shipped.
	p.pass(20*second, second/10)
	if c = status(); !c.CannotKeepUp {
		t.Errorf("the log is full: %+v", c)
	}
	near("a full log's write rate, of the rate", c.WriteRate/c.ShipRate, 1, 0.15)
	p.pass(20*second, 0)
	if c = status(); c.CannotKeepUp || c.Why != "" || c.BacklogBytes != 0 {
		t.Errorf("level again: %+v", c)
	}
	said := 0
	for _, e := range p.Events {
		if strings.Contains(e, "cannot keep up") {
			said++
		}
	}
	if said != 2 {
		t.Errorf("said %d times, want once that it cannot keep up and once that it can again:\n%s", said, strings.Join(p.Events, "\n"))
	}
}

// A sync counts what its map says, and how long ago the oldest of that was written.
func TestCatchUpBySync(t *testing.T) {
	const second, rate = 1_000_000_000, 32 << 10
	p := NewTunedPair(3, mirror.Async, t.Fatalf, nil)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Net.Cut = [2]bool{true, true}
	p.pass(3*second, second/100)
	st := p.M[0].Node.Status()
	dirty := p.M[0].Cache.Log().Dirty().Bytes()
	if c := st.CatchUp; dirty == 0 || c.BacklogBytes <= dirty || c.BacklogNanos < 25*second/10 || c.BacklogNanos > 35*second/10 {
		t.Errorf("in the map %d, %v: %+v", dirty, st.Marks, c)
	}
	if err := p.M[0].Node.SetRateLimit(rate); err != nil {
		t.Fatal(err)
	}
	p.Net.Cut = [2]bool{}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateFullSync })
	before := p.M[0].Node.Status().CatchUp.BacklogBytes
	p.pass(2*second, 0)
	st = p.M[0].Node.Status()
	if c := st.CatchUp; !strings.HasPrefix(c.Why, "map sync: ") || !strings.HasPrefix(st.Reason, "map sync: ") || c.BacklogBytes >= before || c.BacklogBytes == 0 || c.BacklogNanos < 45*second/10 ||
		c.ShipRate < rate/2 || c.ShipRate > rate*2 {
		t.Errorf("from %d bytes: %q %+v", before, st.Reason, c)
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.pass(second, 0)
	if c := p.M[0].Node.Status().CatchUp; c.BacklogBytes != 0 || c.BacklogNanos != 0 || c.Why != "" {
		t.Errorf("level: %+v", c)
	}
}
