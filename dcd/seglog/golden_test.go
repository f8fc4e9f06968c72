package seglog

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// kinds seals two segments on a log of version 1's frozen sample: one with a record of each kind
// that this version writes, and an empty one that declares it durable.
func kinds(t testing.TB, l *Log) (full, empty Segment) {
	t.Helper()
	at := func(lsn LSN) Segment {
		g, _ := l.Lookup(lsn)
		s, err := Parse(l.RAM(g.Pos, g.Bytes), 8<<10)
		if err != nil {
			t.Fatal(err)
		}
		s.Pos = g.Pos
		return s
	}
	if !l.Begin(4, 1024) {
		t.Fatal("full")
	}
	b := make([]byte, 1024)
	blktest.Fill(b, 8192, 79)
	l.Add(Data, 8192, 1024, b)
	l.AddRange(Discard, 0, 65536, 1<<20)
	l.AddRange(WriteZeroes, 0, 0, 4096)
	l.AddRange(WriteZeroes, KeepSpace, 512, 512)
	lsn := l.Seal(blk.Instant{Wall: 1_700_000_000_000_000_001})
	l.durable = lsn
	if !l.Begin(0, 0) {
		t.Fatal("full")
	}
	l.Seal(blk.Instant{Wall: 1_700_000_000_000_000_002})
	return at(lsn), at(lsn + 1)
}

// keep is a device that completes everything at once and remembers the last write.
type keep struct {
	instant
	off int64
	b   []byte
}

func (d *keep) Submit(r *blk.Request) {
	d.off, d.b = r.Offset, append([]byte(nil), r.Buf[:r.Length]...)
	d.instant.Submit(r)
}

// A segment with every kind of record, an empty one, and a summary page: version 1 is frozen, and
// what was written then is still understood.
func TestGoldenKindsAndSummary(t *testing.T) {
	dev := &keep{instant: instant{simSize}}
	l := &Log{dev: dev, super: *sample(), incarn: 0x1234}
	if err := l.allocate(); err != nil {
		t.Fatal(err)
	}
	l.rewindTo(Point{4096, 9, 0xabcdef})
	full, empty := kinds(t, l)
	golden(t, "segment-kinds-v1.bin", full.Raw)
	golden(t, "segment-empty-v1.bin", empty.Raw)
	want := []Record{
		{Kind: Data, Offset: 8192, Length: 1024},
		{Kind: Discard, Offset: 65536, Length: 1 << 20},
		{Kind: WriteZeroes, Offset: 0, Length: 4096},
		{Kind: WriteZeroes, Flags: KeepSpace, Offset: 512, Length: 512},
	}
	same := func(s *Segment) {
		t.Helper()
		if s.Records != len(want) || s.LSN != 9 || s.Durable != 8 || s.Hash != full.Hash {
			t.Fatalf("%+v", s)
		}
		for i, w := range want {
			r := s.Record(i)
			if r.Kind != w.Kind || r.Flags != w.Flags || r.Offset != w.Offset || r.Length != w.Length || r.Disk != 0 || r.At != s.Pos+Pos(r.off) {
				t.Fatalf("record %d: %+v", i, r)
			}
		}
		if at := s.Record(0).At - s.Pos; at != 512 {
			t.Fatalf("the payload lies at %d", at)
		}
	}
	same(&full)
	if empty.Records != 0 || empty.LSN != 10 || empty.Durable != 9 || empty.PrevHash != full.Hash || empty.Bytes != 512 {
		t.Fatalf("%+v", empty)
	}
	// Until they are durable no page names them; a page is due when it covers enough.
	l.durable, l.sums.covered = 10, l.sums.every
	l.kickSummaries()
	golden(t, "summary-v1.bin", dev.b)
	if dev.off != l.super.CheckpointOffset {
		t.Fatalf("the page is at %d", dev.off)
	}
	w := blktest.NewWorld(1)
	disk := blktest.NewDisk(w, "log", simSize, 1000)
	b := make([]byte, simSize)
	copy(b[dev.off:], dev.b)
	disk.Restore(b)
	again := &Log{dev: disk, super: *sample()}
	again.super.DiskBytes = 2 << 20 // the sample's range ends there at most
	if err := again.allocate(); err != nil {
		t.Fatal(err)
	}
	p := pageReader{l: again, drive: w.Drive}
	defer p.close()
	p.find(9)
	n, err := p.each(9, 4096, 0xabcdef, func(g *Segment) error {
		switch g.LSN {
		case 9:
			same(g)
		case 10:
			if g.Records != 0 || g.Bytes != 512 || g.Hash != empty.Hash || g.Durable != 9 {
				t.Fatalf("%+v", g)
			}
		}
		return nil
	})
	if n != 2 || err != nil {
		t.Fatal(n, err)
	}
}

// The golden files are read as an older version's log is: what they say does not depend on this
// version's writer.
func TestGoldenFilesAreUnderstood(t *testing.T) {
	for name, records := range map[string]int{"segment-v1.bin": 2, "segment-kinds-v1.bin": 4, "segment-empty-v1.bin": 0} {
		s, err := Parse(file(t, name), 8<<10)
		if err != nil || s.Records != records || s.Term != (Term{1, 7}) || s.Volume != (UUID{1}) || s.Incarnation != 0x1234 {
			t.Errorf("%s: %v %+v", name, err, s)
		}
	}
	s, err := decodeSuper(file(t, "super-v1.bin"))
	if err != nil || s.Start != (Point{4096, 9, 0xabcdef}) || s.Marks != HasPeer|Degraded || s.DiskIdentity != "sim" {
		t.Errorf("%v %+v", err, s)
	}
}
