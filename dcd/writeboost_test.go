package dcd

import (
	"bytes"
	"errors"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// The two ways in which dm-writeboost's recovery loses data, held against the whole cache; see the
// tests of the same name in seglog for what it does.

// fills is a life whose blocks all hold what was written last, one byte each.
type fills struct {
	*life
	want [simDisk / BlockBytes]byte
	n    byte
}

// write puts the next fill into a block, as a segment of its own, and gives its LSN.
func (f *fills) write(block int) seglog.LSN {
	f.t.Helper()
	f.n = f.n%250 + 1
	var s sink
	r := &blk.Request{Op: blk.Write, Offset: int64(block) * BlockBytes, Length: BlockBytes, Buf: bytes.Repeat([]byte{f.n}, 33<<10)[:BlockBytes], Owner: &s}
	f.c.Submit(r)
	for f.c.Kick(f.w.Time()); s.done == 0; f.c.Kick(f.w.Time()) {
		if !f.w.Step() {
			f.t.Fatal("quiet")
		}
	}
	if r.Err != 0 {
		f.t.Fatal(r.Err)
	}
	f.want[block] = f.n
	return r.LSN
}

// check reads every block.
func (f *fills) check(when string) {
	f.t.Helper()
	b, err := blktest.ReadAll(f.c, f.w.Drive)
	if err != nil {
		f.t.Fatalf("%s: %v", when, err)
	}
	f.same(when, b)
}

func (f *fills) same(when string, b []byte) {
	f.t.Helper()
	for i, v := range f.want {
		if !bytes.Equal(b[i*BlockBytes:(i+1)*BlockBytes], bytes.Repeat([]byte{v}, BlockBytes)) {
			f.t.Fatalf("%s: block %d holds %d, want %d", when, i, b[i*BlockBytes], v)
		}
	}
}

// round writes blocks in turn and destages them until the ring has been gone round n times and the
// next segment falls just where an older one lies; that one's contents are what it gives.
func (f *fills) round(n int) (old []byte) {
	f.t.Helper()
	l := f.c.Log()
	places := map[int64]seglog.Segment{}
	f.c.DestageAll(true)
	for {
		at := l.DeviceOffset(l.Head())
		if g, ok := places[at]; ok && l.Head() > seglog.Pos(n)*seglog.Pos(l.Super().RingBytes) {
			f.settle()
			if at == l.DeviceOffset(l.Head()) {
				f.c.DestageAll(false)
				f.c.HoldDestage(true)
				return append([]byte(nil), f.log.Bytes()[at:at+int64(g.Bytes)]...)
			}
			continue
		}
		g, _ := l.Lookup(f.write(int(l.Sealed()) % 40))
		places[l.DeviceOffset(g.Pos)] = g
		f.settle()
	}
}

// reopen cuts the power and recovers; change alters the log meanwhile.
func (f *fills) reopen(change func(b []byte, s *seglog.Super)) error {
	super := *f.c.Log().Super()
	f.data, f.log = f.data.Crash(), f.log.Crash()
	b := append([]byte(nil), f.log.Bytes()...)
	change(b, &super)
	f.log.Restore(b)
	c, err := Open(Options{Data: f.data, Log: f.log, Incarnation: f.w.Rand.Uint64(), DestageBytes: 32 << 10, IdleNanos: 300_000}, f.w.Drive)
	if err == nil {
		f.c = c
	}
	return err
}

func noPages(b []byte, s *seglog.Super) { clear(b[s.CheckpointOffset:][:s.CheckpointBytes]) }

// The newest segment never reached the log, and where it should lie there is a whole one of the
// lap before: dm-writeboost applies it, over newer writes of the same block. Here the chain ends
// in front of it; where it was declared durable nothing is opened, and Rescue does not apply it
// either.
func TestOlderLapIsNotReplayed(t *testing.T) {
	for _, declared := range []bool{false, true} {
		f := &fills{life: newLife(t, 3)}
		old := f.round(2)
		seg, err := seglog.Parse(old, 1<<20)
		if err != nil || seg.Records == 0 {
			t.Fatal("no older segment lies there: ", err)
		}
		victim := int(seg.Record(0).Offset / BlockBytes)
		before := f.c.Log().Sealed()
		want := f.want
		f.write((victim + 1) % 40)
		lost, _ := f.c.Log().Lookup(f.c.Log().Sealed())
		if lost.LSN != before+1 {
			t.Fatalf("segment %d, then %d", before, lost.LSN)
		}
		if declared {
			f.write((victim + 2) % 40)
			f.write((victim + 3) % 40)
		}
		at := f.c.Log().DeviceOffset(lost.Pos)
		err = f.reopen(func(b []byte, s *seglog.Super) {
			copy(b[at:], old)
			noPages(b, s)
		})
		if !declared {
			if err != nil || f.c.Log().Sealed() != before {
				t.Fatalf("%v: recovered up to %d, want %d", err, f.c.Log().Sealed(), before)
			}
			f.want = want
			f.check("after the cut")
			continue
		}
		var c *seglog.CorruptError
		if !errors.As(err, &c) || c.LSN != lost.LSN {
			t.Fatalf("%v, want segment %d named", err, lost.LSN)
		}
		r, err := Rescue(f.log, f.data, f.w.Drive)
		if err != nil || len(r.Lost) != 1 || r.Lost[0] != (seglog.Lost{From: lost.LSN, To: lost.LSN}) {
			t.Fatalf("%+v %v", r, err)
		}
		f.want[(victim+1)%40] = want[(victim+1)%40]
		f.same("rescued", f.data.Crash().Bytes())
	}
}

// A segment that was destaged rots. Before the recovery start nothing looks at it; behind the
// start, where its space was not needed yet, it is named, and every newer acknowledged write can
// still be had: dm-writeboost discards them all.
func TestRotOfADestagedSegmentLosesNothing(t *testing.T) {
	for _, reclaimed := range []bool{true, false} {
		f := &fills{life: newLife(t, 3)}
		f.round(1)
		var rotten []seglog.Segment
		for i := range 2 {
			g, _ := f.c.Log().Lookup(f.write(i))
			rotten = append(rotten, g)
		}
		f.c.DestageLimit = f.c.Log().Sealed()
		if !reclaimed {
			for i := range 3 {
				f.write(10 + i) // held: so the log is not idle, and the start stays
			}
		}
		f.c.HoldDestage(false)
		f.c.DestageAll(true)
		f.settle()
		if f.c.Cleared() < rotten[1].LSN {
			t.Fatalf("destaged up to %d only", f.c.Cleared())
		}
		f.c.HoldDestage(true)
		for i := range 10 {
			f.write(20 + i)
		}
		start := f.c.Log().Super().Start.LSN
		if reclaimed != (start > rotten[1].LSN) {
			t.Fatalf("the start is at %d, the rotten segments are %d to %d", start, rotten[0].LSN, rotten[1].LSN)
		}
		err := f.reopen(func(b []byte, s *seglog.Super) {
			noPages(b, s)
			for _, g := range rotten {
				at := s.RingOffset + int64(g.Pos%seglog.Pos(s.RingBytes))
				for i := range b[at : at+600] {
					b[at+int64(i)] ^= 0x55
				}
			}
		})
		if reclaimed {
			if err != nil {
				t.Fatal(err)
			}
			f.check("after the rot")
			continue
		}
		var c *seglog.CorruptError
		if !errors.As(err, &c) || c.LSN != rotten[0].LSN {
			t.Fatalf("%v, want segment %d named", err, rotten[0].LSN)
		}
		r, err := Rescue(f.log, f.data, f.w.Drive)
		if err != nil || len(r.Lost) != 1 || r.Lost[0] != (seglog.Lost{From: rotten[0].LSN, To: rotten[1].LSN}) {
			t.Fatalf("%+v %v", r, err)
		}
		f.same("rescued", f.data.Crash().Bytes())
	}
}
