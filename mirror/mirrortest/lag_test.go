package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// The lag is there while the peer is away and gone when it has caught up.
func TestLag(t *testing.T) {
	p := NewTunedPair(5, mirror.Async, t.Fatalf, nil)
	defer p.Free()
	status := func() mirror.Status { return p.M[0].Node.Status() }
	p.until("the first full sync", func() bool { return p.state(0) == mirror.StateInSync })
	p.until("the peer is level", func() bool { return status().LagSegments == 0 })
	if s := status(); s.CatchUp.BacklogBytes != 0 || s.CatchUp.BacklogNanos != 0 {
		t.Errorf("level, but %d bytes and %d ns behind", s.CatchUp.BacklogBytes, s.CatchUp.BacklogNanos)
	}
	p.Net.Cut = [2]bool{true, true}
	p.until("the session ends", func() bool { return !status().Connected })
	before := status().Cache.WrittenBytes
	p.Load.Left = 100
	p.until("the load ends", func() bool { return p.Load.Done() })
	s := status()
	if wrote := int64(s.Cache.WrittenBytes - before); wrote == 0 || s.CatchUp.BacklogBytes < wrote || s.CatchUp.BacklogNanos <= 0 || s.LagSegments == 0 {
		t.Errorf("wrote %d bytes: %d bytes, %d ns, %d segments behind", wrote, s.CatchUp.BacklogBytes, s.CatchUp.BacklogNanos, s.LagSegments)
	}
	p.Net.Cut = [2]bool{}
	p.until("the peer is level", func() bool { return status().LagSegments == 0 && p.state(0) == mirror.StateInSync })
	if s := status(); s.CatchUp.BacklogBytes != 0 || s.CatchUp.BacklogNanos != 0 {
		t.Errorf("level again, but %d bytes and %d ns behind", s.CatchUp.BacklogBytes, s.CatchUp.BacklogNanos)
	}
}
