package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// traffic counts what one machine sends.
type traffic struct{ data, dataFrames, beats int64 }

func (c *traffic) count(f *wire.Frame) {
	switch f.Kind {
	case wire.Segment, wire.Resync, wire.ReadReply, wire.Compare:
		c.data += int64(wire.HeadBytes + len(f.Body))
		c.dataFrames++
	case wire.Heartbeat:
		c.beats++
	}
}

// In simulated time a limited primary sends at its limit and no faster, catches up nevertheless,
// and its heartbeats come as often and as promptly as ever; the limit changes online.
func TestRateLimit(t *testing.T) {
	const rate = 1 << 20
	var sent traffic
	p := NewTunedPair(3, mirror.Async, t.Fatalf, func(o *mirror.Options) { o.RateLimit = rate })
	defer p.Free()
	p.Net.Tap = func(from int, f *wire.Frame) {
		if from == 0 {
			sent.count(f)
		}
	}
	node := func() *mirror.Node { return p.M[0].Node }
	began, base := p.W.Now, sent
	measure := func(what string, limit float64) {
		t.Helper()
		seconds, n := float64(p.W.Now-began)/1e9, sent.data-base.data
		got := float64(n) / seconds
		if most := limit*(seconds+0.02) + 16<<10; float64(n) > most || got < limit*0.9 { // 20 ms may be saved up
			t.Errorf("%s: %.0f bytes per second, the limit is %.0f", what, got, limit)
		}
		if beats := float64(sent.beats-base.beats) / seconds; beats < 400 { // one each 2 ms, and answers
			t.Errorf("%s: %.0f heartbeats per second", what, beats)
		}
		if rtt := node().Status().RoundTripNanos; rtt > 2*p.Net.MaxNs+1e6 {
			t.Errorf("%s: a round trip of %d ns", what, rtt)
		}
		t.Logf("%s: %.0f bytes per second over %.0f ms of simulated time, %d frames, %d heartbeats", what, got, seconds*1e3, sent.dataFrames-base.dataFrames, sent.beats-base.beats)
		began, base = p.W.Now, sent
	}
	p.until("the first full sync", func() bool { return p.state(0) == mirror.StateInSync })
	began, base = p.W.Now, sent
	load := func() {
		p.Load.Left = 200
		p.until("the load ends", func() bool { return p.Load.Done() })
		p.until("the peer is level", func() bool {
			s := node().Status()
			return s.RemoteDurable == s.Sealed
		})
	}
	load()
	measure("stream", rate)
	if err := node().SetRateLimit(4 * rate); err != nil {
		t.Fatal(err)
	}
	load()
	measure("four times the limit", 4*rate)
	if node().SetRateLimit(5) == nil || node().Status().RateLimit != 4*rate {
		t.Error("a limit of 5 bytes per second was taken")
	}
	if err := node().SetRateLimit(0); err != nil {
		t.Fatal(err)
	}
	load()
	if seconds := float64(p.W.Now-began) / 1e9; float64(sent.data-base.data)/seconds < 8*rate {
		t.Errorf("without a limit: %d bytes in %.3f s", sent.data-base.data, seconds)
	}
	if got := node().Status().SentBytes; got != uint64(sent.data) {
		t.Errorf("status says %d bytes were sent, it was %d", got, sent.data)
	}
	if err := node().Drain(false); err != nil {
		t.Fatal(err)
	}
	p.until("drained", func() bool { done, _ := node().Drained(); return done })
}
