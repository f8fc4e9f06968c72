package mirrortest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// A new peer whose disk is smaller is refused, says why on both sides, and is not touched; one that is larger
// holds the volume, and what lies behind it stays.
func TestDifferingSizes(t *testing.T) {
	for _, size := range []int64{DiskBytes - 4096, DiskBytes + 64<<10} {
		scenario(t, mirror.Sync, nil, func(p *Pair) {
			p.write(0, 0, 4096, 100)
			p.Crash(1)
			p.until("alone", func() bool { return p.state(0) == mirror.StateDegraded })
			p.newLog(size)
			was := bytes.Repeat([]byte("before"), int(size))[:size]
			p.M[1].Data = blktest.NewDisk(p.W, "other", size, 200_000)
			p.M[1].Data.Restore(was)
			p.Start(1)
			if size > DiskBytes {
				p.equal()
				if !bytes.Equal(p.M[1].Data.Bytes()[DiskBytes:], was[DiskBytes:]) {
					fail("what lies behind the volume changed")
				}
				return
			}
			p.write(0, 4096, 4096, 101)
			p.turns(3000)
			why := fmt.Sprintf("the peer's disk is smaller: %d bytes, %d are needed", size, DiskBytes)
			a, b := p.M[0].Node.Status(), p.M[1].Node.Status()
			if a.State != mirror.StateDegraded || !a.Ready || a.LastError != "refuse: "+why || b.State != mirror.StateWaitPrimary || b.LastError != "the primary refuses: "+why {
				fail("%s (%s), and %s (%s)", a.State, a.LastError, b.State, b.LastError)
			}
			if !bytes.Equal(p.M[1].Data.Bytes(), was) {
				fail("the refused disk was written")
			}
		})
	}
}

// A secondary's disk or log does not answer within its deadline. It says so, and fails for good; the primary
// acknowledges nothing before, and goes on alone then. Started anew, with the disk that answers again, it
// catches up by its log.
func TestDiskTimeoutOnTheSecondary(t *testing.T) {
	for _, what := range []string{"log", "data disk"} {
		t.Run(what, func(t *testing.T) {
			scenario(t, mirror.Sync, func(o *mirror.Options) { o.Timing = mirror.Timing{} }, func(p *Pair) {
				p.W.Batch = 1
				p.write(0, 0, 4096, 100)
				p.turns(200)
				p.quiet()
				m := p.M[1]
				if what == "log" {
					m.Log.HangNth(blk.Write, 1)
				} else {
					m.Data.HangNth(blk.Write, 1)
				}
				begun := p.W.Now
				w := p.submit(0, 4096, 4096, 101)
				p.until("the secondary has failed", func() bool {
					if what == "log" && w.done && p.state(0) == mirror.StateInSync {
						fail("acknowledged in sync, and not durable on the peer")
					}
					return p.state(1) == mirror.StateFailed
				})
				if after := p.W.Now - begun; after < dcd.DefaultDiskNanos || after > dcd.DefaultDiskNanos+2_000_000_000 {
					fail("after %d ns", after)
				}
				p.until("the primary is alone", func() bool { return p.state(0) == mirror.StateDegraded && w.done })
				a, b := p.M[0].Node.Status(), m.Node.Status()
				if w.Err != 0 || a.Reason != "the peer says: the secondary lost a disk: "+b.Reason || !strings.Contains(b.Reason, what) || !strings.Contains(b.Reason, "within 30 s") {
					fail("write %v; %s: %s; %s: %s", w.Err, a.State, a.Reason, b.State, b.Reason)
				}
				if err := m.Node.Promote(true); err == nil || !strings.Contains(err.Error(), b.Reason) {
					fail("the failed one was promoted: %v", err)
				}
				p.write(0, 8192, 4096, 102)
				p.turns(500)
				if s := p.M[0].Node.Status(); s.Connected || s.LastError != "the peer says: "+b.Reason {
					fail("connected %v with one that has failed: %s", s.Connected, s.LastError)
				}
				m.Log.Release()
				m.Data.Release()
				p.turns(500)
				p.Crash(1)
				p.Events = nil
				p.Start(1)
				b2 := p.equal()
				for i := range uint64(3) {
					holds(b2, int64(i)*4096, 100+i)
				}
				if !p.said("0 session connecting→up: stream the peer is level up to LSN ") {
					fail("it did not catch up by the log")
				}
			})
		})
	}
}

// In async mode what was acknowledged and not sent is lost with the primary: a suffix, which promote names.
// When the old primary comes back both say diverged, and it takes a word to give the suffix up.
func TestAsyncLoss(t *testing.T) {
	const ship = 8_000_000
	scenario(t, mirror.Async, func(o *mirror.Options) { o.Timing.Ship = ship }, func(p *Pair) {
		p.W.Batch = 1
		for i := range uint64(3) {
			p.write(0, int64(i)*4096, 4096, 100+i)
		}
		level := func() bool {
			s := p.M[0].Node.Status()
			return s.LagSegments == 0 && s.Sealed == s.RemoteDurable
		}
		p.until("level", level)
		at := p.M[0].Cache.Log().Sealed()
		beaten := p.W.Now
		p.write(0, 0, 4096, 200)
		p.write(0, 4096, 4096, 201)
		if level() || p.W.Now-beaten > ship/2 {
			fail("it was sent at once")
		}
		acked := p.M[0].Cache.Log().Sealed()
		p.until("the peer knows that there is more", func() bool { return p.M[1].Node.Missing().To == acked })
		p.Crash(0)
		p.until("the session is lost", func() bool { return !p.M[1].Node.Status().Connected })
		if m := p.M[1].Node.Missing(); m.From != at+1 || m.To != acked || !m.Acknowledged || m.SilentNanos <= 0 {
			fail("missing %+v of LSN %d to %d", m, at+1, acked)
		}
		if err := p.M[1].Node.Promote(false); err != nil {
			fail("promote: %v", err)
		}
		p.until("it serves", func() bool { return p.M[1].Node.Ready() })
		b := p.readAll(1)
		for i := range uint64(3) {
			holds(b, int64(i)*4096, 100+i)
		}
		if lo, _, err := p.Prefix(b); err != nil || lo > at {
			fail("a prefix up to LSN %d of %d: %v", lo, at, err)
		}
		p.write(1, 8192, 4096, 300)

		p.Load = nil
		p.Start(0)
		p.until("fenced", func() bool { return p.state(0) == mirror.StateFenced })
		p.restart(0, false, nil)
		p.until("both say diverged", func() bool { return p.state(0) == mirror.StateDiverged && p.state(1) == mirror.StateDiverged })
		holds(p.readAll(0), 0, 200)
		kept := 0
		p.restart(0, false, func(o *mirror.Options) {
			o.Discard, o.Keep = true, func(raw []byte) error {
				if s, err := seglog.Parse(raw, len(raw)); err == nil && s.Records > 0 {
					kept++
				}
				return nil
			}
		})
		p.until("in sync", func() bool { return p.state(1) == mirror.StateInSync })
		if !bytes.Equal(p.readAll(0), p.readAll(1)) || kept != 2 {
			fail("the copies differ, or %d segments were kept", kept)
		}
	})
}

// A primary that is demoted while its peer is level has written nothing alone, also in async mode: however
// long it stays away, its return overwrites nothing, and asks nobody.
func TestDemotedLevelIsNotAhead(t *testing.T) {
	scenario(t, mirror.Async, nil, func(p *Pair) {
		p.write(0, 0, 4096, 100)
		p.until("level", func() bool { l, _ := p.M[0].Node.Level(); return l })
		p.restart(0, false, nil)
		if m := p.M[0].Cache.Log().Super().Marks; m&seglog.Ahead != 0 || m&seglog.Demoted == 0 {
			fail("%v", m)
		}
		p.Crash(0)
		p.until("the session is lost", func() bool { return !p.M[1].Node.Status().Connected })
		if err := p.M[1].Node.Promote(false); err != nil {
			fail("promote: %v", err)
		}
		p.until("it serves", func() bool { return p.M[1].Node.Ready() })
		for i := range int64(3 * LogBytes / 4096) {
			p.write(1, i*4096%DiskBytes, 4096, uint64(200+i))
		}
		p.Start(0)
		p.until("in sync", func() bool { return p.state(1) == mirror.StateInSync })
		if p.said("diverged") || !bytes.Equal(p.readAll(0), p.readAll(1)) {
			fail("diverged, or the copies differ")
		}
	})
}

// A new session says nothing of what is only in the peer's RAM: its log is slow, the connection breaks, and what
// came with the last one is not durable there before the log says so.
func TestNewSessionIsNotDurable(t *testing.T) {
	if err := newSessionSlowLog(); err != nil {
		t.Fatal(err)
	}
}

func newSessionSlowLog() error {
	const slow = 5_000_000_000
	return play(mirror.Sync, func(o *mirror.Options) { o.OnDisconnect = mirror.Suspend }, func(p *Pair) {
		p.W.Batch = 1
		p.write(0, 0, 4096, 100)
		p.turns(500)
		p.quiet()
		durable := p.M[1].Cache.Log().Durable()
		p.M[1].Log.SlowNth(blk.Write, 1, slow)
		w := p.submit(0, 4096, 4096, 101)
		p.until("the peer has it in RAM", func() bool { return p.M[1].Cache.Log().Sealed() > durable })
		sessions := p.M[0].Node.Status().Sessions
		p.Net.Break(Data)
		p.until("a new session", func() bool {
			return p.M[0].Node.Status().Sessions > sessions && p.M[1].Node.Status().Connected
		})
		for end := p.W.Now + slow/100; p.W.Now < end; p.Turn() {
			if s := p.M[0].Node.Status(); w.done || s.RemoteDurable > durable {
				fail("acknowledged %v, remote durable LSN %d, of %d", w.done, s.RemoteDurable, durable)
			}
		}
		p.until("it is acknowledged", func() bool { return w.done })
		if p.M[1].Cache.Log().Durable() <= durable || w.Err != 0 {
			fail("LSN %d is durable: %v", p.M[1].Cache.Log().Durable(), w.Err)
		}
		p.equal()
	})
}

// Nothing is acknowledged alone before the mark that says so is durable.
func TestAloneNeedsTheMark(t *testing.T) {
	if err := aloneWithSlowMark(); err != nil {
		t.Fatal(err)
	}
}

func aloneWithSlowMark() error {
	const slow = 1_000_000_000
	return play(mirror.Sync, nil, func(p *Pair) {
		p.W.Batch = 1
		p.write(0, 0, 4096, 100)
		p.turns(500)
		p.quiet()
		p.M[0].Log.SlowNth(blk.Write, 1, slow)
		p.Crash(1)
		p.until("alone", func() bool { return p.state(0) == mirror.StateDegraded })
		end := p.W.Now + slow/2
		w := p.submit(0, 4096, 4096, 101)
		l := p.M[0].Cache.Log()
		p.until("time passes", func() bool { return p.W.Now >= end })
		if l.Durable() != l.Sealed() || l.Super().Marks&seglog.Degraded == 0 {
			fail("LSN %d of %d, %v", l.Durable(), l.Sealed(), l.Super().Marks)
		}
		if s, err := seglog.Probe(p.M[0].Log, p.W.Drive); err != nil || s.Marks&seglog.Degraded != 0 || w.done {
			fail("acknowledged %v, and the mark is %v (%v)", w.done, s.Marks, err)
		}
		p.until("it is acknowledged", func() bool { return w.done })
		if s, err := seglog.Probe(p.M[0].Log, p.W.Drive); err != nil || s.Marks&seglog.Degraded == 0 || w.Err != 0 {
			fail("%v, and the mark is %v (%v)", w.Err, s.Marks, err)
		}
	})
}
