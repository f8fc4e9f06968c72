package mirrortest

import (
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
