package mirror

import (
	"math/rand/v2"
	"testing"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Over any stretch of time no more is sent than the rate allows, with one frame and the burst on
// top, and as much as it allows when there is enough to send.
func TestPace(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, wire.MaxBody)
	for _, rate := range []int64{MinRateLimit, 1 << 20, 10 << 20, 1 << 30} {
		for _, most := range []int{100, 70_000, wire.MaxBody} {
			var p pace
			if err := p.set(rate); err != nil {
				t.Fatal(err)
			}
			now := int64(5 * second)
			begun, total := now, int64(0)
			for range 2000 {
				if now < begun+second && r.IntN(20) == 0 {
					now += r.Int64N(second / 100) // nothing to send for a while
					continue
				}
				if !p.may(now) {
					wake := p.wake()
					if wake <= now || p.wake() != blk.Never {
						t.Fatalf("at %d: wake %d", now, wake)
					}
					now = wake
					continue
				}
				f := wire.Frame{Kind: wire.Segment, Body: body[:r.IntN(most)]}
				limit := float64(now-begun+paceBurst)/second*float64(rate) + float64(most+wire.HeadBytes)
				p.spend(now, &f)
				if total += int64(wire.HeadBytes + len(f.Body)); float64(total) > limit+1 {
					t.Fatalf("%d bytes in %d ns at %d per second", total, now-begun, rate)
				}
			}
			if float64(total) < 0.9*float64(now-begun-second)/second*float64(rate) || uint64(total) != p.sent {
				t.Errorf("rate %d, frames of up to %d: only %d bytes in %d ns", rate, most, total, now-begun)
			}
		}
	}
	var p pace
	if p.set(1) == nil || p.set(-1) == nil {
		t.Error("a limit below the lowest passed")
	}
	for range 1000 {
		p.spend(1, &wire.Frame{Body: body})
	}
	if !p.may(1) || p.wake() != blk.Never {
		t.Error("no limit, and yet something waits")
	}
	// A limit that is changed does not make anybody wait for what went before.
	p.set(MinRateLimit)
	p.spend(1, &wire.Frame{Body: body})
	if p.may(second) {
		t.Error("2 MiB went in a second")
	}
	if p.set(1 << 30); !p.may(second) {
		t.Error("the old limit lasts")
	}
}
