package mirrortest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// write writes value to [off, off+n) of machine i's device and waits for the answer.
func (p *Pair) write(i int, off, n int64, value uint64) {
	b := make([]byte, 33<<10)[:n]
	blktest.Fill(b, off, value)
	err := blk.Do(p.M[i].Node.Device(), &blk.Request{Op: blk.Write, Offset: off, Length: n, Buf: b}, func() (blk.Instant, error) {
		p.Turn()
		return p.W.Time(), nil
	})
	if err != nil {
		fail("write to machine %d: %v", i, err)
	}
}

// restart ends machine i in good order and starts it as what role says.
func (p *Pair) restart(i int, primary bool, tune func(*mirror.Options)) {
	m := p.M[i]
	if m.Node.Status().Primary && !primary {
		t, err := m.Node.Demote()
		if err == nil {
			err = m.Cache.Log().Sync(t, p.W.Drive)
		}
		if err != nil {
			fail("demote machine %d: %v", i, err)
		}
	}
	m.ends(p.W.Now)
	p.Net.Stop(i)
	m.Data, m.Log = m.Data.CrashKeeping(true), m.Log.CrashKeeping(true)
	m.Primary = primary
	if i == 0 {
		p.Load = nil
	}
	was := p.Tune
	if tune != nil {
		p.Tune = tune
	}
	p.Start(i)
	p.Tune = was
}

// Both machines write as primaries while the link is cut. It is said on both sides, nothing is
// discarded, and the word of whoever loses ends it, whichever side that is and whoever dials.
func TestSplitBrain(t *testing.T) {
	for winner := range 2 {
		t.Run(fmt.Sprint("machine ", winner, " wins"), func(t *testing.T) {
			p := NewPair(5, mirror.Sync, t.Fatalf)
			defer p.Free()
			loser := 1 - winner
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
			p.write(0, 0, 4096, 100)
			p.Net.Cut = [2]bool{true, true}
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateDegraded && !p.M[1].Node.Status().Connected })
			p.write(0, 8192, 4096, 101)
			if err := p.M[1].Node.Promote(false); err != nil {
				t.Fatal(err)
			}
			turnUntil(t, p, func() bool { return p.M[1].Node.Ready() })
			p.write(1, 16384, 4096, 102)
			images := [2][]byte{p.readAll(0), p.readAll(1)}

			// The older term is fenced; the newer one goes on, and says what it waits for.
			p.Net.Cut = [2]bool{}
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateFenced })
			if st := p.M[1].Node.Status(); st.State != mirror.StateDegraded || !st.Ready {
				t.Errorf("the newer term is %s: %s", st.State, st.Reason)
			}
			p.restart(0, false, nil)
			if winner == 0 {
				p.Net.Cut = [2]bool{true, true}
				if err := p.M[0].Node.Promote(false); err != nil {
					t.Fatal(err)
				}
				turnUntil(t, p, func() bool { return p.M[0].Node.Ready() })
				p.restart(1, false, nil)
				p.Net.Cut = [2]bool{}
			}
			turnUntil(t, p, func() bool { return p.state(0) == mirror.StateDiverged && p.state(1) == mirror.StateDiverged })
			for i := range p.M {
				if st := p.M[i].Node.Status(); !strings.Contains(st.Reason, "both wrote after LSN") || st.Connected {
					t.Errorf("machine %d: %q, connected %v", i, st.Reason, st.Connected)
				}
				if !bytes.Equal(p.readAll(i), images[i]) {
					t.Errorf("machine %d's copy changed", i)
				}
			}
			said := 0
			p.turns(2000)
			for _, e := range p.Events {
				if strings.Contains(e, fmt.Sprintf(" %d volume ", winner)) && strings.Contains(e, "→"+mirror.StateDiverged) {
					said++
				}
			}
			if said != 1 {
				t.Errorf("it was said %d times:\n%s", said, strings.Join(p.Events, "\n"))
			}

			var kept []uint64
			p.restart(loser, false, func(o *mirror.Options) {
				o.Discard = true
				o.Keep = func(raw []byte) error {
					if raw == nil {
						return nil // that was all
					}
					s, err := seglog.Parse(raw, len(raw))
					if err != nil {
						t.Fatal(err)
					}
					for i := range s.Records {
						r := s.Record(i)
						v, err := blktest.Value(s.Payload(r)[:512], uint64(r.Offset/512))
						if err != nil {
							t.Fatal(err)
						}
						kept = append(kept, v)
					}
					return nil
				}
			})
			turnUntil(t, p, func() bool { return p.state(winner) == mirror.StateInSync && p.state(loser) == mirror.StateFollowing })
			for i := range p.M {
				if !bytes.Equal(p.readAll(i), images[winner]) {
					t.Errorf("machine %d does not hold what the winner wrote", i)
				}
			}
			if want := fmt.Sprint([]uint64{101 + uint64(loser)}); fmt.Sprint(kept) != want {
				t.Errorf("kept of what was discarded: writes %v, want %v", kept, want)
			}
		})
	}
}

// What a primary sealed and the peer never got is kept from its data disk until the peer was asked: when
// that was promoted meanwhile, the tail is cut, and the disk must not hold it. As a demoted one, too.
func TestCutTailIsNotOnTheDisk(t *testing.T) {
	if err := cutTail(); err != nil {
		t.Fatal(err)
	}
}

func cutTail() error { return play(mirror.Sync, nil, cutTailOf) }

func cutTailOf(p *Pair) {
	p.write(0, 0, 4096, 100)
	p.until("the next step", func() bool { return p.M[0].Cache.Dirty()+p.M[1].Cache.Dirty() == 0 })
	p.Net.Cut = [2]bool{true, false}
	p.Load.Reads, p.Load.Left = 0, 8
	sealed := p.M[0].Cache.Log().Sealed()
	p.until("the next step", func() bool { return p.M[0].Cache.Log().Durable() >= sealed+2 })
	p.Crash(0)
	p.Load = nil
	before := bytes.Clone(p.M[0].Data.Bytes())
	quiet := func(when string) {
		p.turns(3000)
		if p.M[0].Cache.Log().Sealed() < sealed+2 || !bytes.Equal(p.M[0].Data.Bytes(), before) {
			fail("%s: up to LSN %d, of %d that both have; the disk was written", when, p.M[0].Cache.Log().Sealed(), sealed)
		}
	}
	p.Net.Cut = [2]bool{true, true}
	p.Start(0)
	quiet("while it waits for the peer")
	if err := p.M[1].Node.Promote(true); err != nil {
		fail("%v", err)
	}
	p.Net.Cut = [2]bool{}
	p.until("the next step", func() bool { return p.state(0) == mirror.StateFenced })
	quiet("fenced")
	p.Net.Cut = [2]bool{true, true}
	p.restart(0, false, nil)
	quiet("demoted")
	p.restart(0, false, nil)
	quiet("started again")
	p.Net.Cut = [2]bool{}
	p.until("the next step", func() bool { return p.state(1) == mirror.StateInSync })
	if !p.said("up: cut and stream") {
		fail("it was not cut")
	}
	if err := p.M[1].Node.Drain(false); err != nil {
		fail("drain: %v", err)
	}
	p.until("drained", func() bool { done, _ := p.M[1].Node.Drained(); return done })
	if !bytes.Equal(p.M[0].Data.Bytes(), p.M[1].Data.Bytes()) {
		fail("the disks differ")
	}
}

// A promoted machine that starts again, and has written nothing yet, takes the tail that the old primary
// has more: its term is newer than that of the frames that bring it.
func TestTailOfAnOlderTerm(t *testing.T) {
	scenario(t, mirror.Sync, nil, func(p *Pair) {
		p.write(0, 0, 4096, 100)
		p.turns(500)
		p.Net.Cut = [2]bool{true, false}
		sealed := p.M[0].Cache.Log().Sealed()
		p.submit(0, 0, 4096, 101)
		p.until("it is durable here", func() bool { return p.M[0].Cache.Log().Durable() > sealed })
		p.restart(0, false, nil)
		if err := p.M[1].Node.Promote(true); err != nil {
			fail("promote: %v", err)
		}
		p.until("it serves", func() bool { return p.M[1].Node.Ready() })
		p.restart(1, true, nil)
		p.Net.Cut = [2]bool{}
		p.until("in sync", func() bool { return p.state(1) == mirror.StateInSync })
		if !p.said("1 session connecting→up: take the peer's tail ") {
			fail("it took no tail")
		}
		for i := range p.M {
			holds(p.readAll(i), 0, 101)
		}
	})
}
