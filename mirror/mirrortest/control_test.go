package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// On a link over which a segment takes longer than a peer may be silent, the session lives as long as
// bytes come, and the round trip is that of the link, whatever is queued.
func TestSlowLink(t *testing.T) {
	const ms = 1_000_000
	const rate, beat, dead = 200_000, 4 * ms, 20 * ms
	for _, mode := range []mirror.Mode{mirror.Sync, mirror.Async} {
		t.Run(mode.String(), func(t *testing.T) {
			p := NewTunedPair(7, mode, t.Fatalf, func(o *mirror.Options) { o.Timing.Heartbeat, o.Timing.PeerDead = beat, dead })
			defer p.Free()
			p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
			p.Net.Rate = rate
			slow := 0 // frames that take longer than the peer may be silent
			p.Net.Tap = func(_ int, f *wire.Frame) {
				if int64(len(f.Body))*1e9/rate > dead {
					slow++
				}
			}
			// A step of the world takes several events: so many of them that it is short.
			var tick func()
			tick = func() { p.W.After(ms/4, tick) }
			tick()
			// What was measured before, at full speed, is not looked at.
			for end := p.W.Now + 5*beat; p.W.Now < end; p.Turn() {
			}
			p.Load.Left = 150
			var most int64
			status := func() mirror.Status { return p.M[0].Node.Status() }
			p.until("everything is there", func() bool {
				s := status()
				most = max(most, s.RoundTripNanos)
				if !s.Connected {
					t.Fatalf("the session ended: %s", s.LastError)
				}
				return p.Load.Done() && s.RemoteDurable == s.Sealed
			})
			if slow < 10 {
				t.Errorf("only %d frames took longer than the peer may be silent", slow)
			}
			// Each way one delay, one heartbeat and an answer that was before it, and until the loop looks.
			if limit := int64(2*(300_000+2*wire.HeadBytes*1e9/rate) + ms); most > limit {
				t.Errorf("a round trip of %d ns, it is at most %d", most, limit)
			}
			if n := status().Sessions; n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}
