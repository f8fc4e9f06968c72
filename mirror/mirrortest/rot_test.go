package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// A primary's log rots while it serves: its client reads what it wrote, from the peer, and an event says so.
func TestRotWhileServing(t *testing.T) {
	p := NewPair(3, mirror.Sync, t.Fatalf)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	c := p.M[0].Cache
	c.HoldDestage(true)
	p.M[1].Cache.HoldDestage(true)
	p.Load.Discards, p.Load.Zeroes = 0, 0
	l := c.Log()
	first := l.Sealed() + 1
	turnUntil(t, p, func() bool {
		if p.Load.Done() {
			p.Load.Left = 1
		}
		s, ok := l.Lookup(first)
		return ok && l.RAM(s.Pos, s.Bytes) == nil
	})
	turnUntil(t, p, p.Load.Done)
	for lsn := first; lsn <= l.Durable(); lsn++ {
		if s, ok := l.Lookup(lsn); ok && l.RAM(s.Pos, s.Bytes) == nil && s.Bytes > l.HeaderBytes(s.Records) {
			head := int64(l.HeaderBytes(s.Records))
			p.M[0].Log.RotRange(l.DeviceOffset(s.Pos)+head, int64(s.Bytes)-head)
		}
	}
	b, err := blktest.ReadAll(c, func() (blk.Instant, error) {
		p.Turn()
		return p.W.Time(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Oracle.Pin(b, 0); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.Rotten == 0 || s.ReadPeer == 0 {
		t.Errorf("%d reads found damage, %d were served by the peer", s.Rotten, s.ReadPeer)
	}
	if !strings.Contains(strings.Join(p.Events, "\n"), "0 log →damaged") {
		t.Errorf("no event says it: %v", p.Events)
	}
}
