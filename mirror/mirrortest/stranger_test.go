package mirrortest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// farewell gives the words of what comes over a connection until it is closed.
func (p *Pair) farewell(c *Conn) (words string) {
	p.until("it is closed", func() bool {
		for f, ok := c.Recv(); ok; f, ok = c.Recv() {
			if f.Kind == wire.Goodbye {
				words += string(f.Body)
			}
		}
		return c.Err() != nil
	})
	return words
}

// stranger is the hello of a primary that holds volume.
func stranger(volume seglog.UUID) *wire.Frame {
	h := wire.HelloMsg{Version: wire.Version, MinVersion: wire.MinVersion, Volume: volume, Primary: true, Term: wire.Term{Number: 7, ID: 3}}
	return &wire.Frame{Kind: wire.Hello, Term: h.Term, Body: h.Encode()}
}

// A secondary takes no other volume's data, whether the primary says so with its hello or its decision.
func TestAnotherVolume(t *testing.T) {
	p := NewPair(5, mirror.Sync, t.Fatalf)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	before := p.M[1].Node.Status()
	p.Crash(0)
	p.Load = nil
	c := p.Net.Visit(Data)
	c.Send(stranger(seglog.UUID{7}))
	if got := p.farewell(c); !strings.Contains(got, "another volume") {
		t.Errorf("to a hello of another volume it says %q", got)
	}
	c = p.Net.Visit(Data)
	c.Send(stranger(before.Volume))
	d := wire.DecisionMsg{Way: wire.FullSync, Volume: [16]byte{7}, At: wire.Point{LSN: 1}}
	c.Send(&wire.Frame{Kind: wire.Decision, Term: wire.Term{Number: 7, ID: 3}, Body: d.Encode()})
	if got := p.farewell(c); !strings.Contains(got, "another volume") {
		t.Errorf("to a decision for another volume it says %q", got)
	}
	if s := p.M[1].Node.Status(); s.Volume != before.Volume || s.Marks != before.Marks {
		t.Errorf("volume %v, marks %v", s.Volume, s.Marks)
	}
}

// Whoever comes while there is a session, and may, does not disturb it before its hello has named this volume;
// the session's own peer, come back by another connection, takes its place at once.
func TestANewcomerWaitsForItsHello(t *testing.T) {
	p := NewPair(5, mirror.Sync, t.Fatalf)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	same := func(what string) {
		t.Helper()
		if s := p.M[0].Node.Status(); s.Sessions != 1 || s.State != mirror.StateInSync {
			t.Errorf("%s: %d sessions, %s", what, s.Sessions, s.State)
		}
	}
	volume := p.M[1].Node.Status().Volume
	c := p.Net.Visit(Data)
	c.Send(stranger(seglog.UUID{7}))
	if got := p.farewell(c); !strings.Contains(got, "another volume") {
		t.Errorf("to a hello of another volume it says %q", got)
	}
	same("a hello of another volume")
	for _, f := range []*wire.Frame{
		{Kind: wire.Hello, Body: []byte("hi")},
		{Kind: wire.Segment, LSN: 1, Term: wire.Term{Number: 9}},
		{Kind: wire.Decision, Term: wire.Term{Number: 9}},
		{Kind: wire.Fetch, LSN: 1, Body: make([]byte, 16)},
	} {
		c := p.Net.Visit(Data)
		c.Send(f)
		p.farewell(c)
		same(fmt.Sprintf("a frame of kind %d", f.Kind))
	}
	silent := p.Net.Visit(Data)
	p.farewell(silent)
	same("silence")
	silent = p.Net.Visit(Data)
	p.turns(10)
	second := p.Net.Visit(Data) // the newest is the one that is listened to
	p.farewell(silent)
	second.Close()
	p.turns(100)
	p.Load.Left = 50
	p.until("the load ends", func() bool { return p.Load.Done() })
	same("all of them")
	// The primary is back, and the secondary has not noticed yet that it was gone.
	p.Net.Half[Data], p.Net.Half[Control] = [2]bool{true, true}, [2]bool{true, true}
	p.M[0].Node = nil
	p.Net.Half[Data], p.Net.Half[Control] = [2]bool{}, [2]bool{}
	c = p.Net.Visit(Data)
	c.Send(stranger(volume))
	p.until("the newcomer is answered", func() bool { f, ok := c.Recv(); return ok && f.Kind == wire.Hello })
	if p.M[1].Node.Status().Connected {
		t.Error("the old session goes on beside the newcomer")
	}
}

// Whoever comes while a primary hands its role over is refused, and disturbs nothing.
func TestAVisitorDuringTheHandOver(t *testing.T) {
	p := newPair(5, mirror.Sync, t.Fatalf, nil, seglog.AssumedClean, true, LogBytes)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.swapRoles(0, stumbles, 1)
	turnUntil(t, p, func() bool { return p.At == 1 && p.state(1) == mirror.StateInSync && p.M[0].Node.Status().Connected })
	if err := p.M[0].Node.AskRole(handWait); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { return p.hand != nil && p.hand.step > handOver })
	c := p.Net.Visit(Data)
	c.Send(stranger(p.M[0].Node.Status().Volume))
	for n := 0; n < 60000 && (p.hand != nil || !p.M[0].Primary); n++ {
		p.roles(0)
	}
	if got := p.farewell(c); !strings.Contains(got, "hand") {
		t.Errorf("the visitor is told %q", got)
	}
	if !p.M[0].Primary || p.M[1].Primary {
		t.Errorf("the role did not go over:\n%s", strings.Join(p.Events, "\n"))
	}
	turnUntil(t, p, func() bool { return p.M[0].Node.Ready() })
	p.converge()
}
