package mirrortest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// said reports whether an event has been that has text in it.
func (p *Pair) said(text string) bool {
	for _, e := range p.Events {
		if strings.Contains(e, text) {
			return true
		}
	}
	return false
}

// equal waits until both are in sync and hold the same bytes, on their data disks alone, and gives them.
func (p *Pair) equal() []byte {
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	if err := p.M[0].Node.Drain(false); err != nil {
		fail("drain: %v", err)
	}
	p.until("drained", func() bool { done, _ := p.M[0].Node.Drained(); return done })
	b := p.M[0].Data.Bytes()
	if !bytes.Equal(b, p.M[1].Data.Bytes()[:len(b)]) {
		fail("the disks differ")
	}
	return b
}

// play runs f on a pair that is in sync, and whose client does only what f says.
func play(mode mirror.Mode, tune func(*mirror.Options), f func(p *Pair)) (err error) {
	var p *Pair
	defer catch(5, &p, &err)
	p = NewTunedPair(5, mode, fail, tune)
	defer p.Free()
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	f(p)
	return nil
}

func scenario(t *testing.T, mode mirror.Mode, tune func(*mirror.Options), f func(p *Pair)) {
	t.Helper()
	if err := play(mode, tune, f); err != nil {
		t.Fatal(err)
	}
}

// holds fails unless b holds value at off.
func holds(b []byte, off int64, value uint64) {
	want := make([]byte, 512)
	blktest.Fill(want, off, value)
	if !bytes.Equal(b[off:off+512], want) {
		fail("byte %d is not of write %d", off, value)
	}
}

// The primary goes ahead of its peer by more than its log holds. The peer stays a prefix until the sync by
// the map begins; then it says inconsistent, cannot be promoted, also after a power cut, and the sync goes on.
func TestAheadBehind(t *testing.T) {
	scenario(t, mirror.Async, nil, func(p *Pair) {
		p.write(0, 0, 4096, 100)
		p.until("level", func() bool { return p.M[0].Node.Status().LagSegments == 0 })
		p.Net.Cut = [2]bool{true, true}
		for i := int64(0); !p.M[0].Cache.Log().Dirty().Active(); i++ {
			if i > 2*LogBytes/4096 {
				fail("the log is never full")
			}
			p.write(0, i*4096%DiskBytes, 4096, uint64(200+i))
		}
		if !p.said("0 peer catches up from the log→catches up from the dirty map the log is ") {
			fail("it does not say that the peer fell out of the log")
		}
		if s := p.M[1].Node.Status(); s.Inconsistent() || s.State != mirror.StateWaitPrimary {
			fail("behind: %s, %v", s.State, s.Marks)
		}
		holds(p.readAll(1), 0, 100)

		p.M[0].Node.SetRateLimit(2 << 20)
		p.Net.Cut = [2]bool{}
		p.until("part of it is durable", func() bool {
			_, off := p.M[0].Cache.Log().Dirty().Resume()
			return p.state(0) == mirror.StateFullSync && off > 0
		})
		if r := p.M[0].Node.Status().Reason; !strings.HasPrefix(r, "map sync: the peer ends at LSN ") || !strings.Contains(r, "the map says what changed between") {
			fail("by the map: %q", r)
		}
		inconsistent := func(when string) {
			s := p.M[1].Node.Status()
			if err := p.M[1].Node.Promote(true); err == nil || !strings.Contains(err.Error(), "incomplete") || !s.Inconsistent() {
				fail("%s: %s, %v; promote: %v", when, s.State, s.Marks, err)
			}
		}
		inconsistent("during the sync")
		p.Crash(1)
		p.Start(1)
		if s := p.state(1); s != "" && s != mirror.StateIncomplete {
			fail("after the power cut: %s", s)
		}
		inconsistent("after the power cut")
		p.until("it goes on", func() bool { return p.said("0 session connecting→up: go on with the sync") })
		p.M[0].Node.SetRateLimit(0)
		p.equal()
	})
}

// What is written during a full sync, before, at and behind where it is, is in the copy in the end.
func TestWriteDuringResync(t *testing.T) {
	for _, x := range []struct {
		breaks bool
		lacks  uint64
		places int // at least so many are written: of blocks that are only compared fewer are under way
	}{{false, wire.FeatureHash, 10}, {true, wire.FeatureHash, 10}, {false, 0, 5}, {true, 0, 5}} {
		breaks := x.breaks
		scenario(t, mirror.Sync, nil, func(p *Pair) {
			p.Net.Lacks = x.lacks
			p.write(0, 0, 4096, 99)
			p.Crash(1)
			p.until("alone", func() bool { return p.state(0) == mirror.StateDegraded })
			p.newLog(DiskBytes)
			p.M[1].Data = p.newDisk()
			p.M[0].Node.SetRateLimit(1 << 20)
			p.Start(1)
			status := func() mirror.Status { return p.M[0].Node.Status() }
			wrote := map[int64]uint64{}
			for i, v := 0, uint64(300); status().State != mirror.StateInSync; i++ {
				p.turns(20)
				if s := status(); s.State == mirror.StateFullSync && s.SyncDone > 0 && v < 324 {
					for _, off := range []int64{s.SyncDone - 4096, s.SyncDone, s.SyncDone + 8192, DiskBytes - 4096} {
						if off < DiskBytes {
							p.write(0, off, 4096, v)
							wrote[off] = v
							v++
						}
					}
					if breaks && v > 312 && p.M[0].Node.Status().Sessions < 4 {
						p.Net.Break(Data)
					}
				}
				if i > 20_000 {
					fail("it never ends: %s", status().Reason)
				}
			}
			if len(wrote) < x.places {
				fail("%d writes during the sync", len(wrote))
			}
			if breaks != p.said("go on with the sync") {
				fail("broken %v", breaks)
			}
			b := p.equal()
			for off, v := range wrote {
				holds(b, off, v)
			}
		})
	}
}

// A block of a sync takes long to be read, and is written meanwhile: the write waits, or the peer would have it on
// its disk when the older block comes.
func TestSlowReadDuringResync(t *testing.T) {
	if err := slowReadDuringResync(); err != nil {
		t.Fatal(err)
	}
}

func slowReadDuringResync() error {
	return play(mirror.Sync, nil, func(p *Pair) {
		p.W.Batch = 1
		p.Net.Lacks = wire.FeatureHash // every block is read once, and sent
		for i := range int64(4) {
			p.write(0, i*16<<10, 4096, 100)
		}
		p.until("destaged", func() bool { return p.M[0].Cache.Dirty() == 0 })
		p.Crash(1)
		p.until("alone", func() bool { return p.state(0) == mirror.StateDegraded })
		p.newLog(DiskBytes)
		p.Start(1)
		p.until("under way", func() bool { return p.state(0) == mirror.StateFullSync && p.M[0].Node.Status().SyncDone >= 16<<10 })
		hits := p.M[0].Data.Hits
		p.M[0].Data.SlowNth(blk.Read, 1, 50_000_000)
		p.until("a block is being read", func() bool { return p.M[0].Data.Hits > hits })
		off := p.M[0].Node.Status().SyncDone
		w := p.submit(0, off, 4096, 101)
		p.until("it is written", func() bool { return w.done })
		if w.Err != 0 {
			fail("%v", w.Err)
		}
		holds(p.equal(), off, 101)
	})
}

// The end of a sync is lost, either that it ended, or that the copy is complete. It is in sync only when
// both know, and nothing is copied anew.
func TestResyncMissesItsEnd(t *testing.T) {
	for _, lost := range []wire.Kind{wire.ResyncEnd, wire.Ack} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprint("kind ", lost, ", power cut ", crash), func(t *testing.T) {
				scenario(t, mirror.Sync, nil, func(p *Pair) {
					p.Net.Cut = [2]bool{true, true}
					for i := int64(0); !p.M[0].Cache.Log().Dirty().Active(); i++ {
						p.write(0, i*4096%DiskBytes, 4096, uint64(200+i))
					}
					p.Net.Cut = [2]bool{}
					ended, missed := false, false
					p.Net.Tap = func(from int, f *wire.Frame) {
						ended = ended || f.Kind == wire.ResyncEnd
						if !missed && ended && f.Kind == lost && (lost == wire.ResyncEnd || f.Flags != 0) {
							missed = true
							p.Net.Cut = [2]bool{from == 0, from == 1}
						}
					}
					p.until("the end is missed", func() bool { return missed })
					if s := p.M[1].Node.Status(); s.Inconsistent() != (lost == wire.ResyncEnd) {
						fail("the copy: %v", s.Marks)
					}
					p.until("the session is lost", func() bool { return !p.M[0].Node.Status().Connected && !p.M[1].Node.Status().Connected })
					if s := p.M[0].Node.Status(); s.State != mirror.StateDegraded || s.Marks&(seglog.DirtyMap|seglog.Degraded) != seglog.DirtyMap|seglog.Degraded {
						fail("the primary is %s, %v", s.State, s.Marks)
					}
					copied := 0
					p.Net.Tap = func(from int, f *wire.Frame) {
						if f.Kind == wire.Resync {
							copied += len(f.Body)
						}
					}
					if crash {
						p.Crash(1)
						p.Start(1)
					}
					p.Net.Cut = [2]bool{}
					p.equal()
					if copied > 4*(16<<10) {
						fail("%d bytes were copied again", copied)
					}
					way := "go on with the sync"
					if lost == wire.Ack {
						way = "stream"
					}
					if e := strings.Join(p.Events, "\n"); !strings.Contains(e[strings.LastIndex(e, "0 session connecting→up:"):], "up: "+way+" ") {
						fail("not: %s", way)
					}
				})
			})
		}
	}
}

// revert puts machine i's disk and log back to older copies.
func (p *Pair) revert(i int, data, log []byte) {
	p.Crash(i)
	if i == 0 {
		p.Load = nil
	}
	p.M[i].Data.Restore(data)
	p.M[i].Log.Restore(log)
	p.Start(i)
}

// One machine's disk and log are put back to an older copy, as from a snapshot. A secondary gets what it
// lacks, from the log or by a full sync; a primary takes it from its peer, or does not serve.
func TestRevertToOlderData(t *testing.T) {
	for _, side := range []int{1, 0} {
		for _, long := range []bool{false, true} {
			t.Run(fmt.Sprint("machine ", side, ", out of the log ", long), func(t *testing.T) {
				scenario(t, mirror.Sync, nil, func(p *Pair) {
					p.write(0, 0, 4096, 100)
					p.turns(500)
					for _, m := range p.M {
						m.Cache.PauseDestage(!long) // so that the log holds everything
					}
					p.write(0, 4096, 4096, 101)
					m := p.M[side]
					data, log := bytes.Clone(m.Data.Bytes()), bytes.Clone(m.Log.Bytes())
					old := m.Cache.Log().Sealed()
					writes := int64(4)
					if long {
						writes = 3 * LogBytes / 4096
					}
					for i := range writes {
						p.write(0, 8192+i*4096%(DiskBytes/2), 4096, uint64(200+i))
					}
					p.until("level", func() bool { return p.M[0].Node.Status().LagSegments == 0 })
					sealed := p.M[0].Cache.Log().Sealed()
					image := p.readAll(0)
					p.Events = nil
					p.revert(side, data, log)
					want := fmt.Sprintf("up: stream the peer is level up to LSN %d of ", old)
					switch {
					case long && side == 1:
						want = fmt.Sprintf("up: full sync the peer ends at LSN %d, the log begins at ", old)
					case side == 0 && !long:
						want = fmt.Sprintf("up: take the peer's tail the peer has LSN %d to %d, which this log lost", old+1, sealed)
					case side == 0:
						p.until("diverged", func() bool { return p.state(0) == mirror.StateDiverged && p.state(1) == mirror.StateDiverged })
						if s := p.M[0].Node.Status(); s.Ready || s.Reason != "the two logs have nothing in common" {
							fail("ready %v: %s", s.Ready, s.Reason)
						}
						if !bytes.Equal(p.readAll(1), image) {
							fail("the good copy changed")
						}
						return
					}
					p.until("they have met", func() bool { return p.said(want) })
					if b := p.equal(); !bytes.Equal(b, image) {
						fail("the newer data is gone")
					}
				})
			})
		}
	}
}
