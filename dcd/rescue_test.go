package dcd

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// A log with a rotten segment that was durable is refused by Open, and Rescue gets out of it
// everything but that segment.
func TestRescue(t *testing.T) {
	l := newLife(t, 2)
	l.c.HoldDestage(true)
	const bad = 7
	var lsn seglog.LSN
	for i := range 20 {
		l.do(blk.Write, int64(i)*4096, 4096, byte(i+1))
		if i == bad {
			lsn = l.c.Log().LastData()
		}
	}
	l.do(blk.WriteZeroes, 0, 8192, 0)
	s, _ := l.c.Log().Lookup(lsn)
	super := l.c.Log().Super()
	l.data, l.log = l.data.Crash(), l.log.Crash()
	b := append([]byte(nil), l.log.Bytes()...)
	b[super.RingOffset+int64(s.Pos)+4096] ^= 1
	l.log.Restore(b)
	var corrupt *seglog.CorruptError
	if _, err := Open(Options{Data: l.data, Log: l.log}, l.w.Drive); !errors.As(err, &corrupt) || corrupt.LSN != lsn {
		t.Fatal(err)
	}
	before := append([]byte(nil), l.data.Bytes()...)
	dry, err := Rescue(l.log, nil, l.w.Drive)
	if err != nil || !bytes.Equal(before, l.data.Bytes()) {
		t.Fatal("a dry run wrote, or failed: ", err)
	}
	r, err := Rescue(l.log, l.data, l.w.Drive)
	if err != nil || len(r.Lost) != 1 || r.Lost[0] != (seglog.Lost{From: lsn, To: lsn}) || r.Segments < 20 || dry.Segments != r.Segments || r.Zeroed != 8192 {
		t.Fatalf("%+v %v", r, err)
	}
	got := l.data.Crash().Bytes()
	for i := range 20 {
		want := byte(i + 1)
		if i < 2 {
			want = 0
		}
		if i == bad {
			want = before[i*4096]
		}
		if got[i*4096] != want || got[i*4096+4095] != want {
			t.Fatalf("block %d: %d, want %d", i, got[i*4096], want)
		}
	}
}

// With Ordered the data disk alone is, at every power cut, what it was after some segment.
func TestOrderedDestage(t *testing.T) {
	for seed := range uint64(40) {
		l := newLife(t, seed)
		l.c.o.Ordered = true
		l.c.AckLimit, l.c.DestageLimit = math.MaxUint64, math.MaxUint64
		l.c.DestageAll(true)
		// Two blocks change in turn: an image between two segments has no other state.
		const n = 24
		for i := range n {
			l.do(blk.Write, int64(i%2)*4096, 4096, byte(i+1))
		}
		for range l.w.Rand.IntN(200) {
			if wake := l.c.Kick(l.w.Time()); wake > l.w.Now && !l.w.Turn(min(wake, l.w.Now+1e5)) {
				break
			}
		}
		b := l.data.Crash().Bytes()
		// Within one segment a sector may be old or new; the other block must then be just before.
		x, y := int(b[0]), int(b[4096])
		for s := range 8 {
			if v := int(b[s*512]); v != x && v != x+2 && v != x-2 {
				t.Fatalf("seed %d: one block holds %d and %d", seed, x, v)
			}
		}
		if d := x - y; d != 1 && d != -1 && !(x == 0 && y == 0) && d != 3 && d != -3 || d == 3 && b[3584] == b[0] || d == -3 && b[4096+3584] == b[4096] {
			t.Fatalf("seed %d: the disk holds %d and %d: no order of the writes gives that", seed, x, y)
		}
	}
}

// What is read back from the log for destage comes in long reads, and what RAM has is not read.
func TestReadingBackIsCheap(t *testing.T) {
	l := newLife(t, 2)
	l.c.HoldDestage(true)
	for i := range 5 {
		l.do(blk.Write, int64(i)*4096, 4096, 1)
	}
	l.c.HoldDestage(false)
	l.c.DestageAll(true)
	l.settle()
	if n := l.c.Status().LogReadBytes; n != 0 || l.c.Dirty() != 0 {
		t.Fatalf("%d bytes read back although RAM has them; %d dirty", n, l.c.Dirty())
	}
	l.c.HoldDestage(true)
	for i := range 24 {
		l.do(blk.Write, int64(i%6)*4096, 4096, 2)
	}
	l.c.HoldDestage(false)
	before := l.log.Reads
	l.settle()
	if n := l.log.Reads - before; n > 4 || l.c.Status().LogReadBytes == 0 || l.c.Dirty() != 0 {
		t.Fatalf("%d reads of the log, %d bytes; %d dirty", n, l.c.Status().LogReadBytes, l.c.Dirty())
	}
}

// What went past the log is newer on the disk than what the log has from before, and older than what
// came after.
func TestRescueLeavesWhatWentPastTheLog(t *testing.T) {
	l := newLife(t, 2)
	l.c.HoldDestage(true)
	for i := range int64(4) {
		l.do(blk.Write, 1<<18+i*4096, 4096, 1)
	}
	l.c.y.set(1)
	l.c.y.shortest = 512
	for l.c.y.count == 0 {
		l.do(blk.Write, 1<<18+4096, 4096, 2) // the first one only asks for the feature bit
		l.c.y.runs = [bypassStream]seqRun{{end: 1<<18 + 4096, bytes: 1 << 20}}
	}
	l.do(blk.Write, 1<<18+4096, 512, 3)
	l.data, l.log = l.data.Crash(), l.log.Crash()
	if _, err := Rescue(l.log, l.data, l.w.Drive); err != nil {
		t.Fatal(err)
	}
	got := l.data.Crash().Bytes()[1<<18:]
	for at, want := range map[int]byte{0: 1, 4095: 1, 4096: 3, 4607: 3, 4608: 2, 8191: 2, 8192: 1, 16383: 1} {
		if got[at] != want {
			t.Errorf("byte %d: %d, want %d", at, got[at], want)
		}
	}
}
