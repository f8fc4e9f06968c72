package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// In async mode a single write waits for company, no longer than it may; a lot of them do not wait. In
// the other modes nothing does, for the client would.
func TestAsyncGathers(t *testing.T) {
	const wait = 3_000_000
	var sent seglog.LSN
	var sentAt int64
	p := NewCleanPair(1, mirror.Async, t.Fatalf, func(o *mirror.Options) { o.Timing.Ship = wait })
	defer p.Free()
	p.Net.Tap = func(from int, f *wire.Frame) {
		if from == 0 && f.Kind == wire.Segment {
			sent, sentAt = f.LSN, p.W.Now
		}
	}
	log := func() *seglog.Log { return p.M[0].Cache.Log() }
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync && sent == log().Sealed() })
	one := func() (waited int64) {
		before := log().Sealed()
		var now, at int64 // the world goes on to the next event before it is looked at
		p.until("a segment is sealed", func() bool {
			at, now = now, p.W.Now
			if p.Load.Done() && log().Sealed() == before {
				p.Load.Left = 1 // it may be a read
			}
			return log().Sealed() > before
		})
		p.until("it is sent", func() bool { return sent > before })
		waited = sentAt - at
		p.until("the load ends", func() bool { return p.Load.Done() && sent == log().Sealed() })
		return waited
	}
	for range 5 {
		if waited := one(); waited < wait || waited > wait+p.Net.MaxNs { // the world's steps take several events
			t.Errorf("a single write waited for %d ns, not %d", waited, int64(wait))
		}
	}
	// Whatever the wait, no more than so much of the log is held back.
	p.Load.Left = 300
	most, from := int64(0), log().Head()
	p.until("the load ends", func() bool {
		if sent == log().Sealed() {
			from = log().Head()
		}
		most = max(most, int64(log().Head()-from))
		return p.Load.Done()
	})
	if limit := int64(128 << 10); most == 0 || most > limit {
		t.Errorf("%d bytes of log were held back, at most %d may be", most, limit)
	}
	// The peer answers for several segments at once, too, until it has none left to answer for.
	before, answers := log().Sealed(), 0
	tap := p.Net.Tap
	p.Net.Tap = func(from int, f *wire.Frame) {
		if tap(from, f); from == 1 && f.Kind == wire.Ack {
			answers++
		}
	}
	p.Load.Left = 300
	p.until("the peer has all", func() bool { return p.Load.Done() && p.M[0].Node.Status().RemoteDurable == log().Sealed() })
	if n := int(log().Sealed() - before); answers == 0 || answers > n/3 {
		t.Errorf("%d answers for %d segments", answers, n)
	}
	p.Net.Tap = tap
	for _, m := range []mirror.Mode{mirror.SemiSync, mirror.Sync} {
		p.M[0].Node.SetMode(m)
		p.until("the mode is in force", func() bool {
			return p.M[0].Node.Status().Mode == m && p.state(0) == mirror.StateInSync && sent == log().Sealed()
		})
		if waited := one(); waited != 0 {
			t.Errorf("in %v mode a write waited for %d ns before it was sent", m, waited)
		}
	}
}
