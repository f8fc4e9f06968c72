package dcd

import (
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// answered is a Completer that counts.
type answered struct{ n int }

func (a *answered) Complete(*blk.Request) { a.n++ }

// The log's answer is left only where a write waits for more than that and nobody else for anything.
func TestLull(t *testing.T) {
	w := blktest.NewWorld(1)
	data, log := blktest.NewDisk(w, "data", 8<<20, 1000), blktest.NewDisk(w, "log", 4<<20, 1000)
	s := seglog.Super{DiskBytes: 8 << 20, DiskBlock: 512, MaxSegmentBytes: 528 << 10, ChunkBytes: 3 << 20}
	if err := seglog.Create(log, s, w.Drive); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{Data: data, Log: log}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	var a answered
	buf := make([]byte, 4096)
	submit := func(op blk.Op, stamps *blk.Stamps) *blk.Request {
		r := &blk.Request{Op: op, Offset: 4096, Length: 4096, Buf: buf, Owner: &a, Stamps: stamps}
		c.Submit(r)
		c.Kick(w.Time())
		return r
	}
	turns := func(n int) {
		for a.n < n {
			w.Turn(w.Now + 1e6)
			c.Kick(w.Time())
		}
	}
	peer := func() { c.AckLimit = c.log.Sealed() }
	lull := func(want bool, when string) {
		t.Helper()
		if got := c.Lull(w.Time()); got != want {
			t.Errorf("%s: %v", when, got)
		}
	}
	rest := func() { w.Turn(w.Now + 2*lullReadNanos) }
	peer()
	rest()
	lull(false, "nothing is written")
	submit(blk.Write, nil)
	lull(true, "an append, and the peer has not answered")
	submit(blk.Write, nil)
	lull(false, "a second write waits for that append")
	peer()
	turns(1)
	peer()
	turns(2)
	submit(blk.Write, &blk.Stamps{})
	lull(false, "a traced write")
	peer()
	turns(3)
	submit(blk.Write, nil)
	peer()
	lull(false, "the peer has answered first")
	turns(4)
	submit(blk.Write, nil)
	submit(blk.Read, nil)
	lull(false, "a read")
	peer()
	turns(6)
	submit(blk.Write, nil)
	lull(false, "soon after a read")
	peer()
	turns(7)
	rest()
	submit(blk.Write, nil)
	lull(true, "long after a read")
}
