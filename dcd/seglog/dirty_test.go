package seglog

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// mapped is a log on a simulated disk with room for a dirty map of some pages.
func mapped(t *testing.T, w *blktest.World, diskBytes int64) (*blktest.Disk, *Log) {
	t.Helper()
	dev := blktest.NewDisk(w, "log", 2<<20, 1000)
	s := Super{Volume: UUID{1}, Log: UUID{2}, DiskBytes: diskBytes, DiskBlock: 512, ChunkBytes: 128 << 10, MaxSegmentBytes: 16 << 10}
	if err := Create(dev, s, w.Drive); err != nil {
		t.Fatal(err)
	}
	return dev, reopen(t, w, dev)
}

func reopen(t *testing.T, w *blktest.World, dev *blktest.Disk) *Log {
	t.Helper()
	l, err := Open(dev, Options{Incarnation: 1}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// settle drives until what was marked is durable.
func settle(t *testing.T, w *blktest.World, l *Log, ticket uint64) {
	t.Helper()
	if err := l.Sync(ticket, w.Drive); err != nil {
		t.Fatal(err)
	}
	for l.Kick(w.Time()); !l.Dirty().Durable(); l.Kick(w.Time()) {
		if !w.Step() {
			t.Fatal("quiet")
		}
	}
}

func ranges(d *Dirty) (list [][2]int64) {
	for off := int64(0); ; {
		from, n := d.Next(off, 1<<40)
		if n == 0 {
			return list
		}
		list = append(list, [2]int64{from, n})
		off = from + n
	}
}

// What is marked and durable is there after a power cut; a map that was ended, or begun anew, is not.
func TestDirtyMapSurvives(t *testing.T) {
	w := blktest.NewWorld(1)
	const size = 10 << 30 // several pages of bits
	dev, l := mapped(t, w, size)
	d := l.Dirty()
	unit := d.unit
	ticket := d.Begin(Point{LSN: 7, PrevHash: 70})
	d.Mark(5*unit+512, 512)
	d.Mark(9*unit-1, 2)
	d.Mark(size-512, 512)
	d.Mark(dirtyBits*unit-1, 2) // over the end of a page
	d.Point(Point{LSN: 9, PrevHash: 90})
	d.SetResume(8, 77)
	settle(t, w, l, ticket)
	dev = dev.Crash()
	l = reopen(t, w, dev)
	d = l.Dirty()
	want := [][2]int64{{5 * unit, unit}, {8 * unit, 2 * unit}, {(dirtyBits - 1) * unit, 2 * unit}, {size - unit, unit}}
	got := ranges(d)
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] || d.Bytes() != 6*unit {
		t.Fatalf("%v, want %v; %d bytes", got, want, d.Bytes())
	}
	if at, off := d.Resume(); at != 8 || off != 77 || !d.Knows(7, 70) || !d.Knows(9, 90) || d.Knows(9, 91) || d.Knows(8, 0) {
		t.Fatal("points or resume are not what they were: ", at, off)
	}
	settle(t, w, l, d.End())
	dev = dev.Crash()
	l = reopen(t, w, dev)
	settle(t, w, l, l.Dirty().Begin(Point{LSN: 20}))
	dev = dev.Crash()
	l = reopen(t, w, dev)
	if got := ranges(l.Dirty()); len(got) != 0 || l.Dirty().Knows(7, 70) {
		t.Fatalf("a map begun anew holds %v of the old one", got)
	}
}

// A page that is torn or rotten counts as dirty altogether, never as clean.
func TestDirtyMapDamaged(t *testing.T) {
	w := blktest.NewWorld(2)
	dev, l := mapped(t, w, 10<<30)
	d := l.Dirty()
	unit := d.unit
	ticket := d.Begin(Point{LSN: 7, PrevHash: 70})
	d.Mark(5*unit, 512)
	settle(t, w, l, ticket)
	dev = dev.Crash()
	dev.RotRange(l.Super().DirtyOffset+dirtyPage+512, 512)
	d = reopen(t, w, dev).Dirty()
	if from, n := d.Next(0, 1<<40); from != 0 || n != dirtyBits*unit || d.n != dirtyBits {
		t.Fatalf("[%d, +%d) is dirty", from, n)
	}
	dev.RotRange(l.Super().DirtyOffset, 512)
	if d = reopen(t, w, dev).Dirty(); d.Knows(7, 70) {
		t.Fatal("a damaged header still says which peer the map is good for")
	}
}

// Power cuts at every moment: what was said to be durable is.
func TestDirtyMapOverPowerCuts(t *testing.T) {
	for seed := range uint64(blktest.Seeds(t, 200)) {
		w := blktest.NewWorld(seed)
		dev, l := mapped(t, w, 10<<30)
		d := l.Dirty()
		if err := l.Sync(d.Begin(Point{LSN: 1}), w.Drive); err != nil {
			t.Fatal(err)
		}
		safe, fresh := map[int64]bool{}, map[int64]bool{}
		for range 1 + w.Rand.IntN(60) {
			b := w.Rand.Int64N(d.bits)
			d.Mark(b*d.unit, 512)
			fresh[b] = true
			for range w.Rand.IntN(3) {
				l.Kick(w.Time())
				w.Step()
			}
			if l.Kick(w.Time()); d.Durable() {
				for b := range fresh {
					safe[b] = true
				}
				clear(fresh)
			}
		}
		dev = dev.Crash()
		d = reopen(t, w, dev).Dirty()
		for b := range safe {
			if !d.get(b) {
				t.Fatalf("seed %d: bit %d was durable", seed, b)
			}
		}
	}
}
