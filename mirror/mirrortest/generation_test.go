package mirrortest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// staging runs f on a pair whose secondary fell out of the primary's log, holds what it held then, image, and is
// being brought level again, slowly: by a sync that is staged, of which something is durable.
func staging(t *testing.T, peerLog int64, f func(p *Pair, image []byte)) {
	t.Helper()
	outOfTheLog(t, peerLog, f, func(p *Pair) bool { return p.M[1].Cache.Log().StagedBlocks() > 0 })
}

// inPlace is staging where the log has no room for it.
func inPlace(t *testing.T, peerLog int64, f func(p *Pair, image []byte)) {
	t.Helper()
	outOfTheLog(t, peerLog, f, func(p *Pair) bool { return !p.M[1].Cache.Staging() })
}

func outOfTheLog(t *testing.T, peerLog int64, f func(p *Pair, image []byte), ok func(p *Pair) bool) {
	t.Helper()
	wide := int64(128 << 10)
	if peerLog == LogBytes {
		wide = DiskBytes
	}
	play := func() (err error) {
		var p *Pair
		defer catch(5, &p, &err)
		p = newPair(5, mirror.Sync, fail, nil, seglog.PeerNeedsFullSync, false, peerLog)
		defer p.Free()
		p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
		for i := range int64(16) {
			p.write(0, i*16<<10, 4096, uint64(100+i))
		}
		p.until("level", func() bool { return p.M[0].Node.Status().LagSegments == 0 })
		image := p.readAll(1)
		p.Net.Cut = [2]bool{true, true}
		// Until the log has given back what the peer lacks.
		for i := int64(0); !p.M[0].Cache.Log().Dirty().Active() || p.M[0].Cache.Log().First() <= p.M[1].Cache.Log().Sealed()+1; i++ {
			p.write(0, i*4096%wide, 4096, uint64(200+i))
		}
		p.M[0].Node.SetRateLimit(2 << 20)
		p.Net.Cut = [2]bool{}
		p.until("part of it is durable", func() bool {
			_, off := p.M[0].Cache.Log().Dirty().Resume()
			return p.state(0) == mirror.StateFullSync && off > 0 && ok(p)
		})
		f(p, image)
		return nil
	}
	if err := play(); err != nil {
		t.Fatal(err)
	}
}

// While a sync is staged the copy is as it was, and says so; the volume is degraded, and only what is visible counts as
// durable there. Neither side's power cut, nor the link's, begins it anew, and it becomes visible at once.
func TestStagedSync(t *testing.T) {
	for _, cut := range []string{"", "the secondary's power", "the primary's power", "the connection"} {
		t.Run(cut, func(t *testing.T) {
			staging(t, 4*LogBytes, func(p *Pair, image []byte) {
				a, b := p.M[0].Node.Status(), p.M[1].Node.Status()
				at := p.M[1].Cache.Log().Super().Visible.LSN - 1
				if a.SyncKind != "staged" || b.SyncKind != "staged" || !a.Degraded() || a.RemoteDurable != at || a.LagSegments != a.Sealed-at || b.Inconsistent() {
					fail("primary: %s, %s (%s), remote durable %d; secondary: %s (%s), %s, %v, visible LSN %d", a.State, a.SyncKind, a.Reason, a.RemoteDurable, b.State, b.Reason, b.SyncKind, b.Marks, at)
				}
				if !strings.Contains(a.Reason, "the peer's copy stays as of LSN ") || !strings.HasPrefix(b.Reason, "a newer copy is being made beside this one") {
					fail("reasons: %q, %q", a.Reason, b.Reason)
				}
				if b, err := p.AsPromoted(1); err != nil || !bytes.Equal(b, image) {
					fail("promoted now, the copy is another one: %v", err)
				}
				switch cut {
				case "the secondary's power":
					p.Crash(1)
					p.Start(1)
				case "the primary's power":
					p.until("the map says how far it is", p.M[0].Cache.Log().Dirty().Durable)
					p.Crash(0)
					p.Load = nil
					p.Start(0)
				case "the connection":
					p.Net.Break(Data)
				}
				if cut != "" {
					p.until("it goes on", func() bool { return p.said("0 session connecting→up: go on with the sync") })
				}
				p.M[0].Node.SetRateLimit(0)
				p.equal()
				if !p.said("1 copy staged→consistent") || p.said("→inconsistent") {
					fail("it did not become visible at once")
				}
			})
		})
	}
}

// In the middle of a staged sync the primary is lost for good: the secondary is promoted, serves what was visible,
// and may be written; also after its own power cut.
func TestPromoteWhileStaged(t *testing.T) {
	for _, cut := range []bool{false, true} {
		staging(t, 4*LogBytes, func(p *Pair, image []byte) {
			p.write(0, 0, 4096, 900)
			term := p.M[0].Cache.Log().Super().Term.Number
			p.Crash(0)
			p.Load = nil
			if cut {
				p.Crash(1)
				p.Start(1)
			}
			p.until("the session ends", func() bool { return !p.M[1].Node.Status().Connected })
			at := p.M[1].Cache.Log().Super().Visible.LSN - 1
			if m := p.M[1].Node.Missing(); !cut && (m.From != at+1 || m.To < at+2) {
				fail("visible is LSN %d, and missing %+v", at, m)
			}
			if err := p.M[1].Node.Promote(false); err != nil {
				fail("%v", err)
			}
			p.until("it serves", func() bool { return p.M[1].Node.Ready() })
			if s := p.M[1].Node.Status(); s.Term.Number <= term || s.Sealed != at || p.M[1].Cache.Staging() {
				fail("term %d after %d, LSN %d, %v", s.Term.Number, term, s.Sealed, s.Marks)
			}
			if !bytes.Equal(p.readAll(1), image) {
				fail("it is not what was visible")
			}
			p.write(1, 4096, 4096, 901)
			p.M[1].Primary = true
			p.Crash(1)
			p.Start(1)
			p.until("it serves again", func() bool { return p.M[1].Node.Ready() })
			holds(p.readAll(1), 4096, 901)
			holds(p.readAll(1), 0, 100)
		})
	}
}

// The superblock that shows a sync takes long, and the session breaks meanwhile: the primary is in sync only
// when it is durable.
func TestSyncIsShownLate(t *testing.T) {
	for _, roomy := range []int64{4, 1} {
		staging := staging
		if roomy == 1 {
			staging = inPlace
		}
		staging(t, roomy*LogBytes, func(p *Pair, _ []byte) {
			p.Net.Tap = func(_ int, f *wire.Frame) {
				if f.Kind == wire.ResyncEnd {
					p.M[1].Log.MaxNs = 60_000_000
				}
			}
			p.M[0].Node.SetRateLimit(0)
			const gone = seglog.Staging | seglog.Inconsistent
			p.until("it is to be shown", func() bool { return p.M[1].Cache.Log().Super().Marks&gone == 0 })
			p.W.Batch = 1
			p.M[1].Node.Disconnect(true)
			p.turns(3)
			p.M[1].Node.Disconnect(false)
			p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
			if s, err := seglog.Probe(p.M[1].Log.CopyCrashed(p.W), p.W.Drive); err != nil || s.Marks&gone != 0 {
				fail("the primary is in sync, and the peer says %v, %v", s.Marks, err)
			}
			p.M[1].Log.MaxNs = 60_000
			p.equal()
		})
	}
}

// What the log has no room for while a sync is staged makes it go on in place: the copy says that it is inconsistent
// before anything of it is overwritten, and the sync ends all the same.
func TestStagedSyncWithoutRoom(t *testing.T) {
	staging(t, 2*LogBytes, func(p *Pair, image []byte) {
		for i := int64(0); !p.said("→inconsistent the log has no room for what is written meanwhile"); i++ {
			if i > 4*LogBytes/4096 || p.state(0) != mirror.StateFullSync {
				fail("%s, and still staged", p.state(0))
			}
			p.write(0, i*4096%DiskBytes, 4096, 1000+uint64(i))
			if s := p.M[1].Cache; s.Staging() && !bytes.Equal(p.M[1].Data.Bytes(), image) {
				fail("the data disk changed before")
			}
		}
		if err := p.M[1].Node.Promote(true); err == nil || !strings.Contains(err.Error(), "incomplete") {
			fail("promoted: %v", err)
		}
		p.until("the primary knows", func() bool { return p.M[0].Node.Status().SyncKind == "in place" })
		p.M[0].Node.SetRateLimit(0)
		p.equal()
	})
}

// A primary of a version that knows of no stages goes on with a sync that another one has staged: in place.
func TestStagedSyncMeetsAnOlderPrimary(t *testing.T) {
	staging(t, 4*LogBytes, func(p *Pair, _ []byte) {
		p.Net.Lacks = wire.FeatureStage
		p.Net.Break(Data)
		p.until("in place", func() bool { return p.said("→inconsistent the primary cannot stage a sync") })
		p.M[0].Node.SetRateLimit(0)
		p.equal()
	})
}

// A staged sync whose durable blocks rot is given up, and begins anew from what is visible.
func TestStagedBlocksRot(t *testing.T) {
	staging(t, 4*LogBytes, func(p *Pair, image []byte) {
		p.until("blocks are known to be durable", func() bool { return p.M[1].Cache.Log().Super().StageBlocks > 0 && !p.M[1].Cache.Log().Busy() })
		l := p.M[1].Cache.Log()
		at := l.DeviceOffset(l.Super().StagePos)
		p.Crash(1)
		p.M[1].Log.RotRange(at, 64)
		p.Events = nil
		p.Start(1)
		if !p.said("1 copy staged up to LSN ") || p.M[1].Cache.Staging() {
			fail("it is still staged")
		}
		if !bytes.Equal(p.M[1].Data.Bytes(), image) {
			fail("the data disk changed")
		}
		p.M[0].Node.SetRateLimit(0)
		p.equal()
		if p.said("go on with the sync") {
			fail("it goes on")
		}
	})
}

// The copy ends in the middle of a staged sync: what was visible is on its data disk alone.
func TestEndWhileStaged(t *testing.T) {
	staging(t, 4*LogBytes, func(p *Pair, image []byte) {
		p.Net.Cut = [2]bool{true, true}
		if err := p.M[1].Node.Drain(true); err != nil {
			fail("%v", err)
		}
		p.until("it has ended", func() bool { done, _ := p.M[1].Node.Drained(); return done })
		p.Crash(1)
		if !bytes.Equal(p.M[1].Data.Bytes(), image) {
			fail("the data disk is not what was visible")
		}
		s, err := seglog.Probe(p.M[1].Log, p.W.Drive)
		if err != nil || s.Marks&(seglog.Ended|seglog.Staging) != seglog.Ended || s.StageBytes != 0 {
			fail("%v, %v", s.Marks, err)
		}
	})
}
