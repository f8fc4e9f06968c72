package dcd

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// The extents, against an array that says for each sector which segment made it zero.
func TestExtents(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var x extents
		var want [256]seglog.LSN
		for lsn := seglog.LSN(1); lsn < 60; lsn++ {
			for range 1 + r.IntN(3) {
				a := r.Int64N(255)
				b := a + 1 + r.Int64N(256-a-1+1)
				x.add(a*512, b*512, lsn)
				for s := a; s < b; s++ {
					want[s] = lsn
				}
			}
			if r.IntN(5) == 0 {
				upTo := seglog.LSN(r.IntN(int(lsn)))
				x.drop(upTo)
				for s := range want {
					if want[s] <= upTo {
						want[s] = 0
					}
				}
			}
			for i, e := range x.list {
				if e.off >= e.end || i > 0 && (x.list[i-1].end > e.off || x.list[i-1].end == e.off && x.list[i-1].lsn == e.lsn) {
					t.Fatalf("seed %d: %v", seed, x.list)
				}
			}
			for s := int64(0); s < 256; {
				n, zero := x.span(s*512, 256*512)
				for e := s + n/512; s < e; s++ {
					if zero != (want[s] > 0) {
						t.Fatalf("seed %d: sector %d: %v, want LSN %d", seed, s, zero, want[s])
					}
				}
			}
			for b := range uint32(32) {
				var m uint8
				for i, l := range want[b*8 : b*8+8] {
					if l > 30 {
						m |= 1 << i
					}
				}
				if got := x.later(b, 30); got != m {
					t.Fatalf("seed %d: block %d: mask %x, want %x", seed, b, got, m)
				}
			}
		}
	}
}

// life is a cache on the simulator's disks with a client that waits for each request.
type life struct {
	*sim
	t *testing.T
}

func newLife(t *testing.T, seed uint64) *life {
	s := newSim(seed)
	s.c.AckLimit, s.c.DestageLimit = math.MaxUint64, math.MaxUint64
	return &life{s, t}
}

func (l *life) do(op blk.Op, off, n int64, fill byte) {
	l.t.Helper()
	r := &blk.Request{Op: op, Offset: off, Length: n}
	if op == blk.Write {
		r.Buf = bytes.Repeat([]byte{fill}, int(max(n, 33<<10)))[:n]
	}
	if err := blk.Do(l.c, r, l.w.Drive); err != nil {
		l.t.Fatal(err)
	}
}

// settle kicks until nothing happens any more.
func (l *life) settle() {
	for range 400 {
		if wake := l.c.Kick(l.w.Time()); wake > l.w.Now && !l.w.Turn(min(wake, l.w.Now+1e6)) {
			return
		}
	}
}

// What a batch holds of versions older than a discard does not come after it, also where both
// are written only because a segment beyond the limit may yet be cut.
func TestADiscardKeepsItsPlaceInABatch(t *testing.T) {
	for _, last := range []blk.Op{blk.Write, blk.Discard} {
		l := newLife(t, 2)
		l.c.HoldDestage(true)
		l.do(blk.Write, 0, 6144, 1)
		l.do(blk.WriteZeroes, 0, 4096, 0)
		limit := l.c.Log().Sealed()
		l.c.DestageLimit = limit
		if last == blk.Discard {
			l.do(blk.WriteZeroes, 0, 4096, 0)
		} else {
			l.do(blk.Write, 0, 4096, 3)
		}
		l.c.HoldDestage(false)
		l.c.DestageAll(true)
		l.settle()
		if l.c.Cleared() != limit {
			t.Fatalf("destaged up to %d, the limit is %d", l.c.Cleared(), limit)
		}
		b := l.data.Crash().Bytes()
		if !bytes.Equal(b[:4096], make([]byte, 4096)) || b[4096] != 1 {
			t.Fatalf("after %v: the disk begins with % x, then % x", last, b[:4], b[4096:4100])
		}
	}
}

// A terabyte is discarded with little log and no more memory than a few extents.
func TestDiscardOfATerabyteTakesLittleLog(t *testing.T) {
	w := blktest.NewWorld(1)
	const size = 1 << 40
	data := &sparse{size: size}
	log := blktest.NewDisk(w, "log", 64<<20, 1000)
	if err := seglog.Create(log, seglog.Super{DiskBytes: size, DiskBlock: 512}, w.Drive); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{Data: data, Log: log}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	c.HoldDestage(true)
	l := &life{&sim{w: w, c: c, log: log}, t}
	l.do(blk.Write, 5<<30, 4096, 7)
	before := c.Log().AppendedBytes
	for off := int64(0); off < size; off += maxZeroBytes {
		l.do(blk.Discard, off, min(maxZeroBytes, size-off), 0)
	}
	if n := c.Log().AppendedBytes - before; n > 1<<20 {
		t.Fatalf("%d bytes of log", n)
	}
	if st := c.Status(); st.ZeroBytes != size || st.DirtyBlocks != 0 || st.ZeroExtents > 300 {
		t.Fatalf("%d bytes in %d extents, %d blocks mapped", st.ZeroBytes, st.ZeroExtents, st.DirtyBlocks)
	}
	c.HoldDestage(false)
	c.DestageAll(true)
	l.settle()
	if data.zeroed != size || c.Dirty() != 0 {
		t.Fatalf("%d bytes zeroed on the disk, %d dirty", data.zeroed, c.Dirty())
	}
}

// sparse is a disk of any size that only counts.
type sparse struct{ size, zeroed int64 }

func (d *sparse) Info() blk.Info {
	return blk.Info{SizeBytes: d.size, LogicalBytes: 512, PhysicalBytes: 512, Discard: true, WriteZeroes: true}
}
func (d *sparse) Submit(r *blk.Request) {
	if r.Op == blk.Discard {
		d.zeroed += r.Length
	}
	r.Err = 0
	r.Owner.Complete(r)
}
func (d *sparse) Kick(blk.Instant) int64 { return blk.Never }
func (d *sparse) Close() error           { return nil }

// A disk that cannot zero by itself gets zeros written.
func TestZeroesAreWrittenWhereTheDiskCannot(t *testing.T) {
	l := newLife(t, 3)
	if i := l.data.Info(); i.Discard || i.WriteZeroes {
		t.Fatal("this seed's disk can zero")
	}
	l.do(blk.Write, 64<<10, 8<<10>>1, 9)
	l.c.DestageAll(true)
	l.settle()
	l.do(blk.WriteZeroes, 0, simDisk, 0)
	l.settle()
	if b := l.data.Crash().Bytes(); !bytes.Equal(b, make([]byte, simDisk)) || l.c.Dirty() != 0 {
		t.Fatal("the disk is not all zeros")
	}
	if err := blk.Do(l.c, &blk.Request{Op: blk.Discard, Length: 4096}, l.w.Drive); err == nil {
		t.Fatal("a discard was accepted over a disk that offers none")
	}
}
