package mirrortest

import (
	"fmt"
	"slices"
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

// A control connection that does not belong to the session, or is one too many, is closed with the reason;
// the session and what it has stay.
func TestControlIsRefused(t *testing.T) {
	p := NewTunedPair(7, mirror.Sync, t.Fatalf, nil)
	defer p.Free()
	var id [16]byte
	p.Net.Tap = func(from int, f *wire.Frame) {
		if h, err := wire.DecodeHello(f.Body); from == 0 && f.Kind == wire.Hello && err == nil && id == [16]byte{} {
			id = h.Session
		}
	}
	control := func(want bool) func() bool {
		return func() bool { return p.M[0].Node.Status().Control == want && p.M[1].Node.Status().Control == want }
	}
	p.until("a control connection", control(true))
	frame := func(kind wire.Kind, session [16]byte, number uint32) *wire.Frame {
		h := wire.HelloMsg{Version: wire.Version, MinVersion: wire.MinVersion, Session: session, Connection: number}
		return &wire.Frame{Kind: kind, Term: wire.Term{Number: 1, ID: 5}, Body: h.Encode()}
	}
	try := func(f *wire.Frame) (said string) {
		c := p.Net.Visit(Control)
		c.Send(f)
		p.until("it is closed", func() bool {
			for f, ok := c.Recv(); ok; f, ok = c.Recv() {
				if f.Kind == wire.Goodbye {
					said = string(f.Body)
				}
			}
			return c.Err() != nil
		})
		return said
	}
	if got := try(frame(wire.Hello, id, 1)); got != "the session has a control connection" || !control(true)() {
		t.Errorf("a second one: %q", got)
	}
	p.Net.Refuse[Control] = true
	p.Net.Break(Control)
	p.until("there is none", control(false))
	if s := p.M[0].Node.Status(); s.ControlWhy != "connection reset" && s.ControlWhy != "connection refused" {
		t.Errorf("down: %q", s.ControlWhy)
	}
	other := id
	other[3]++
	if got := try(frame(wire.Hello, other, 1)); got != "it belongs to another session" {
		t.Errorf("another session: %q", got)
	}
	if got := try(frame(wire.Hello, id, 2)); got != "a session has no connection number 2" {
		t.Errorf("connection 2: %q", got)
	}
	for _, f := range []*wire.Frame{frame(wire.Heartbeat, id, 1), {Kind: wire.Hello, Body: []byte("hi")}, {Kind: wire.Segment}} {
		try(f)
		if p.M[1].Node.Status().Control {
			t.Errorf("a frame of kind %d was taken", f.Kind)
		}
	}
	// One that says nothing keeps no place for ever.
	silent := p.Net.Visit(Control)
	p.until("it is closed", func() bool { return silent.Err() != nil })
	p.Net.Refuse[Control] = false
	p.until("it comes back by itself", control(true))
	p.Load.Left = 50
	p.until("the load ends", func() bool { return p.Load.Done() })
	if s := p.M[0].Node.Status(); s.Sessions != 1 || s.State != mirror.StateInSync {
		t.Errorf("%d sessions, %s", s.Sessions, s.State)
	}
	// Without a session there is nothing to belong to.
	p.M[1].Node.Disconnect(true)
	p.until("there is none", control(false))
	p.M[1].Node.Disconnect(false)
	p.Net.Refuse[Data] = true
	p.turns(100)
	if got := try(frame(wire.Hello, id, 1)); got != "there is no session here that it could belong to" {
		t.Errorf("without a session: %q", got)
	}
}

// A data connection over which nothing goes any more, one way or both, is given up although the control
// connection lives; a control connection is made anew, and the session does not notice.
func TestOneConnectionIsHalfOpen(t *testing.T) {
	const ms = 1_000_000
	const beat, dead = 4 * ms, 40 * ms
	for _, cut := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		for kind, name := range []string{"data", "control"} {
			for _, load := range []bool{false, true} {
				t.Run(fmt.Sprint(name, cut, load), func(t *testing.T) {
					p := NewTunedPair(7, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.Timing.Heartbeat, o.Timing.PeerDead = beat, dead })
					defer p.Free()
					both := func() bool { return p.M[0].Node.Status().Control && p.M[1].Node.Status().Control }
					p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync && both() })
					at := p.W.Now
					if load {
						p.Load.Left = 100
					}
					for i := range cut {
						p.Net.Half[i][kind] = cut[i]
					}
					status := func() mirror.Status { return p.M[0].Node.Status() }
					p.until("it is noticed", func() bool {
						if kind == Data {
							return !status().Connected
						}
						return !status().Control
					})
					// A heartbeat until something is on its way, and one until it is looked at.
					bound := int64(dead)
					if kind == Data {
						bound = 4 * dead
					}
					if after := p.W.Now - at; after < bound-2*beat || after > bound+3*beat {
						t.Errorf("noticed after %d ns of a bound of %d", after, bound)
					}
					const half = "the data connection carries nothing any more, for 0.16s, although the peer is there"
					why, want := status().LastError, []string{half, "the peer says: " + half, "closed by peer"} // the last where its words were lost
					if kind == Control {
						why, want = status().ControlWhy, []string{"nothing heard for 0.04s", "closed by peer"}
					}
					if !slices.Contains(want, why) {
						t.Errorf("it says %q", why)
					}
					p.turns(200)
					p.Net.Half = [2][2]bool{}
					p.until("in sync again", func() bool { return p.Load.Done() && p.state(0) == mirror.StateInSync && both() })
					if n := status().Sessions; kind == Control && n != 1 {
						t.Errorf("%d sessions", n)
					}
				})
			}
		}
	}
}

// A mode that was sent earlier, and comes later on the other connection, does not count.
func TestModeComesInAnyOrder(t *testing.T) {
	p := NewTunedPair(7, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.Timing.PeerDead = 100_000_000 })
	defer p.Free()
	mode := func() mirror.Mode { return p.M[1].Node.Status().Mode }
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync && p.M[1].Node.Status().Control })
	p.Net.Half[0][Data] = true
	late := p.Net.sides[0].live[Data]
	p.until("a heartbeat is held up", func() bool { return late.flying > 0 })
	for _, m := range []mirror.Mode{mirror.Async, mirror.SemiSync} {
		p.M[0].Node.SetMode(m)
		p.until("the mode is there", func() bool { return mode() == m })
	}
	p.Net.Half[0][Data] = false
	p.until("the heartbeat is there", func() bool {
		if mode() != mirror.SemiSync {
			t.Fatalf("the mode is %v again", mode())
		}
		return late.flying == 0 && len(late.peer.in) == 0
	})
	p.turns(20)
	if mode() != mirror.SemiSync || p.M[0].Node.Status().Sessions != 1 {
		t.Errorf("%v after %d sessions", mode(), p.M[0].Node.Status().Sessions)
	}
}

// With a peer of a version that has no control connection everything goes over the data connection.
func TestWithoutControlConnection(t *testing.T) {
	p := NewTunedPair(7, mirror.Sync, t.Fatalf, nil)
	defer p.Free()
	p.Net.Lacks = wire.FeatureControl
	p.Net.TapControl = func(_ int, f *wire.Frame) { t.Errorf("a frame of kind %d on a control connection", f.Kind) }
	status := func() mirror.Status { return p.M[0].Node.Status() }
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.Left = 100
	p.until("the load ends", func() bool { return p.Load.Done() && status().RoundTripNanos > 0 })
	p.turns(2000)
	if s := status(); s.Control || s.ControlWhy != "the peer's version has none" || s.State != mirror.StateInSync {
		t.Errorf("%s, control %v: %q", s.State, s.Control, s.ControlWhy)
	}
	p.Net.Cut[1] = true
	p.until("it is noticed", func() bool { return !status().Connected })
	p.Net.Cut[1] = false
	p.until("in sync again", func() bool { return p.state(0) == mirror.StateInSync })
}

// A connection that is lost is dialed again when its time comes, not when something else happens.
func TestLostConnectionsAreDialedInTime(t *testing.T) {
	const second = 1_000_000_000
	for kind, name := range []string{"data", "control"} {
		t.Run(name, func(t *testing.T) {
			p := NewTunedPair(7, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.Timing.Heartbeat, o.Timing.PeerDead = 10*second, 50*second })
			defer p.Free()
			there := func() bool {
				s := p.M[0].Node.Status()
				return s.Connected && (kind == Data || s.Control)
			}
			p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync && there() })
			p.turns(50)
			p.Net.Refuse = [2]bool{true, true}
			p.Net.Break(kind)
			p.until("it is lost", func() bool { return !there() })
			if wake := p.M[0].wake - p.W.Now; wake > second/100 {
				t.Errorf("the next attempt is looked at in %d ns", wake)
			}
		})
	}
}
