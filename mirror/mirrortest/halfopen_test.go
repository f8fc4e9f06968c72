package mirrortest

import (
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// A link over which nothing comes any more, in one way or both, is noticed by whoever hears nothing,
// after the time that is set and not before, also when that is changed while the session is up.
func TestHalfOpenLinkIsNoticed(t *testing.T) {
	const ms = 1_000_000
	for _, cut := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		for _, online := range []bool{false, true} {
			t.Run(fmt.Sprint(cut, online), func(t *testing.T) {
				const beat, dead = 4 * ms, 40 * ms
				p := NewTunedPair(7, mirror.Sync, t.Fatalf, func(o *mirror.Options) {
					if !online {
						o.Timing.Heartbeat, o.Timing.PeerDead = beat, dead
					}
				})
				defer p.Free()
				turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
				if online {
					for _, m := range p.M {
						m.Node.SetTiming(beat, dead)
					}
				}
				// The last beats of an older setting are over after so long.
				for end := p.W.Now + 2*beat; p.W.Now < end; p.Turn() {
				}
				var beats [2]int // on each kind of connections
				count := func(kind int) func(int, *wire.Frame) {
					return func(from int, f *wire.Frame) {
						if from == 0 && f.Kind == wire.Heartbeat && f.Flags&1 == 0 {
							beats[kind]++
						}
					}
				}
				p.Net.Tap, p.Net.TapControl = count(Data), count(Control)
				end := p.W.Now + 20*beat
				for ; p.W.Now < end; p.Turn() {
				}
				for _, n := range beats {
					if n < 18 || n > 22 {
						t.Errorf("%d heartbeats in the time of 20", beats)
					}
				}
				p.Net.Cut = cut
				at := p.W.Now
				var noticed *Machine // the first one: its end of the connection is then closed for the other, too
				turnUntil(t, p, func() bool {
					for i, m := range p.M {
						if noticed == nil && cut[1-i] && !m.Node.Status().Connected {
							noticed = m
						}
					}
					return noticed != nil
				})
				// It was heard a beat and its answer ago at most; what was on its way when the cut came counts.
				if after := p.W.Now - at; after < dead-beat-3*p.Net.MaxNs || after > dead+2*p.Net.MaxNs {
					t.Errorf("machine %d noticed after %d ns of a bound of %d", noticed.Num, after, dead)
				}
				if st := noticed.Node.Status(); st.PeerDeadNanos != dead || st.HeartbeatNanos != beat || st.LastError != "nothing heard for 0.04s" {
					t.Errorf("machine %d: %s, heartbeat %d, dead after %d", noticed.Num, st.LastError, st.HeartbeatNanos, st.PeerDeadNanos)
				}
				p.Net.Cut = [2]bool{}
				p.until("in sync again", func() bool { return p.state(0) == mirror.StateInSync })
			})
		}
	}
}
