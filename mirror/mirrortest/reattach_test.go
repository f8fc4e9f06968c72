package mirrortest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
)

// bound is Timing.Reattach of the simulated pairs, in ns.
const bound = 30_000_000

// later lets time go by.
func (p *Pair) later(nanos int64) {
	batch, end := p.W.Batch, p.W.Now+nanos
	defer func() { p.W.Batch = batch }()
	p.W.Batch = 1
	p.W.After(nanos, func() {}) // no turn goes beyond it
	for p.W.Now < end {
		p.Turn()
	}
}

// reattachLate has a primary come back in its own place after its peer was promoted and written: it must not serve.
func reattachLate() error {
	var err error
	p := NewPair(5, mirror.Sync, func(f string, a ...any) { err = errors.Join(err, fmt.Errorf(f, a...)) })
	defer p.Free()
	p.Reattach = true
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	p.write(0, 0, 4096, 100)
	p.Crash(0)
	p.Load = nil
	p.until("alone", func() bool { return !p.M[1].Node.Status().Connected })
	if e := p.M[1].Node.Promote(false); e != nil {
		return e
	}
	p.M[1].Primary = true
	p.until("promoted", p.M[1].Node.Ready)
	p.write(1, 0, 4096, 102)
	p.later(bound)
	p.Start(0)
	for range 4000 {
		if p.Turn(); p.M[0].Node.Ready() {
			return errors.Join(err, errors.New("both machines serve"))
		}
	}
	if s := p.state(0); s != mirror.StateFenced {
		return errors.Join(err, fmt.Errorf("the old primary is %s", s))
	}
	b := make([]byte, 4096)
	r := &blk.Request{Op: blk.Read, Offset: 0, Length: 4096, Buf: b}
	if blk.Do(p.M[0].Node.Device(), r, func() (blk.Instant, error) { p.Turn(); return p.W.Time(), nil }) == nil {
		err = errors.Join(err, errors.New("the old primary reads"))
	}
	return err
}

// A server that is put in a dead one's place long after that died finds its peer promoted, and never serves.
func TestReattachLate(t *testing.T) {
	if err := reattachLate(); err != nil {
		t.Fatal(err)
	}
}

// What a server in another one's place serves: at once where that one served and died a moment ago, otherwise
// once its peer was asked, and alone only upon the user's word, or where it died degraded and was not fenced.
func TestReattach(t *testing.T) {
	const now, asked, never = "at once", "once its peer was asked", "not"
	for _, r := range []struct {
		name     string
		late     int64
		unserved bool // a life in between never served
		degraded bool
		fenced   bool
		cut      bool // when it starts
		word     bool // of the user
		want     string
	}{
		{name: "soon", want: now},
		{name: "soon, peer away", cut: true, want: now},
		{name: "soon, degraded", degraded: true, cut: true, want: now},
		{name: "late", late: bound, want: asked},
		{name: "late, peer away", late: bound, cut: true, want: never},
		{name: "late, peer away, upon the user's word", late: bound, cut: true, word: true, want: asked},
		{name: "late, degraded, peer away", late: bound, degraded: true, cut: true, want: asked},
		{name: "soon after one that had only begun to ask", late: bound, unserved: true, cut: true, want: never},
		{name: "fenced", fenced: true, cut: true, want: never},
		{name: "fenced, degraded", fenced: true, degraded: true, cut: true, want: never},
		{name: "fenced, degraded, upon the user's word", fenced: true, degraded: true, cut: true, word: true, want: asked},
	} {
		t.Run(r.name, func(t *testing.T) {
			p := NewPair(7, mirror.Sync, t.Fatalf)
			defer p.Free()
			p.Reattach, p.ErrorsOK = true, true
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
			if r.degraded {
				p.Net.Cut = [2]bool{true, true}
				p.Crash(1)
				turnUntil(t, p, func() bool { return p.state(0) == mirror.StateDegraded })
				p.write(0, 0, 4096, 100)
				p.Start(1)
			}
			if r.fenced {
				p.M[0].hears(mirror.Event{What: "volume", New: mirror.StateFenced})
			}
			p.Crash(0)
			p.Load = nil
			if p.later(r.late); r.cut {
				p.Net.Cut = [2]bool{true, true}
			}
			if p.Start(0); r.unserved {
				p.later(bound / 2)
				p.Crash(0)
				p.Start(0)
			}
			got := never
			if p.M[0].Node.Ready() {
				got = now
			}
			if r.word {
				if err := p.M[0].Node.StartAlone(); err != nil {
					t.Fatal(err)
				}
			}
			if p.later(4 * bound); got == never && p.M[0].Node.Ready() {
				got = asked
			}
			if got != r.want {
				t.Errorf("it serves %s, want: %s (%s)", got, r.want, p.state(0))
			}
		})
	}
}
