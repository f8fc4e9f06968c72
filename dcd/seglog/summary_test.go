package seglog

import (
	"os"
	"strconv"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// huge is a log device of any size that keeps superblocks, checkpoint area and the newest part
// of the ring, counts what is read, and fails reads of what it has not kept.
type huge struct {
	size  int64
	head  []byte // everything before the ring
	pages map[int64][]byte
	order []int64
	keep  int
	read  int64
	lost  bool
}

func (d *huge) Info() blk.Info {
	return blk.Info{SizeBytes: d.size, LogicalBytes: 512, PhysicalBytes: 512}
}
func (d *huge) Kick(blk.Instant) int64 { return blk.Never }
func (d *huge) Close() error           { return nil }

const hugePage = 1 << 20

func (d *huge) Submit(r *blk.Request) {
	r.Err = 0
	for off := int64(0); off < r.Length; {
		at := r.Offset + off
		n := min(r.Length-off, hugePage-at%hugePage)
		b := r.Buf[off : off+n]
		switch {
		case at+n <= int64(len(d.head)) && r.Op == blk.Write:
			copy(d.head[at:], b)
		case at+n <= int64(len(d.head)):
			copy(b, d.head[at:])
			d.read += n
		case r.Op == blk.Write:
			p := d.pages[at/hugePage]
			if p == nil {
				p = make([]byte, hugePage)
				if d.order = append(d.order, at/hugePage); len(d.order) > d.keep {
					p = d.pages[d.order[0]]
					clear(p)
					delete(d.pages, d.order[0])
					d.order = d.order[1:]
				}
				d.pages[at/hugePage] = p
			}
			copy(p[at%hugePage:], b)
		default:
			d.read += n
			p := d.pages[at/hugePage]
			if p == nil {
				d.lost = true
				clear(b)
			} else {
				copy(b, p[at%hugePage:])
			}
		}
		off += n
	}
	r.Owner.Complete(r)
}

// Recovery of a log that is full of 4-KiB records reads at most one per cent of it. One GiB here;
// ROBIB_LOG_GIB=16 is the size that the promise names.
func TestRecoveryReadsOnePerCent(t *testing.T) {
	gib := int64(1)
	if v := os.Getenv("ROBIB_LOG_GIB"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		gib = int64(n)
	}
	s := Super{Volume: UUID{1}, Log: UUID{2}, DiskBytes: 1 << 40, DiskBlock: 512, Start: Point{LSN: 1}, Seq: 1}
	d := &huge{size: gib << 30, pages: map[int64][]byte{}, keep: 160}
	if err := Layout(&s, d.size, 512); err != nil {
		t.Fatal(err)
	}
	d.head = make([]byte, (s.RingOffset+hugePage-1)/hugePage*hugePage)
	encodeSuper(d.head, &s)
	drive := func() (blk.Instant, error) { return blk.Instant{}, nil }
	l, err := Open(d, Options{Incarnation: 1}, drive)
	if err != nil {
		t.Fatal(err)
	}
	l.NewReader("hold", 0)
	buf := make([]byte, 64<<10)
	x := uint64(1)
	now := blk.Instant{Mono: 1}
	for l.Begin(16, 64<<10) {
		for range 16 {
			x = x*6364136223846793005 + 1442695040888963407
			l.Add(Data, int64(x>>36)*4096, 4096, buf[:4096])
		}
		l.Seal(now)
		for l.Kick(now); l.InFlight() > 0; l.Kick(now) {
		}
	}
	for range 10 {
		l.Kick(now)
	}
	used, _ := l.Used()
	d.read = 0
	records := 0
	again, err := Open(d, Options{Incarnation: 2, Visit: func(g *Segment) { records += g.Records }}, drive)
	if err != nil || again.Sealed() != l.Sealed() || again.Head() != l.Head() || records != 16*int(l.Sealed()) {
		t.Fatalf("%v: LSN %d of %d, %d records", err, again.Sealed(), l.Sealed(), records)
	}
	if d.read > used/100 {
		t.Errorf("%d bytes read to recover a log of %d", d.read, used)
	}
	t.Logf("%d bytes read, %.3f %% of %d, %d segments, %d records", d.read, float64(d.read)*100/float64(used), used, l.Sealed(), records)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A discarded range is no payload that the log alone holds.
func TestCheckCountsPayloadOnly(t *testing.T) {
	w := blktest.NewWorld(1)
	dev := blktest.NewDisk(w, "log", simSize, 1000)
	if err := Create(dev, newSuper(), w.Drive); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dev, Options{Incarnation: 1}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	l.Begin(2, 512)
	l.Add(Data, 0, 512, make([]byte, 512))
	l.AddRange(Discard, 0, 4096, 1<<30)
	l.Seal(w.Time())
	for l.Kick(w.Time()); l.InFlight() > 0; l.Kick(w.Time()) {
		w.Step()
	}
	sum, err := Check(dev, w.Drive, func(f Finding) { t.Log(f) })
	if err != nil || sum.Records != 2 || sum.DirtyBytes != 512 {
		t.Fatalf("%+v %v", sum, err)
	}
}
