package seglog

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	p := "testdata/" + name
	if *update {
		if err := os.WriteFile(p, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, file(t, name)) {
		t.Fatalf("%s: format version 1 has changed", p)
	}
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sample() *Super {
	s := newSuper()
	s.Seq, s.Start, s.Marks, s.Declared = 5, Point{4096, 9, 0xabcdef}, HasPeer|Degraded, 8
	s.Fingerprint[0], s.Fingerprint[511] = 1, 2
	if err := Layout(&s, simSize, 512); err != nil {
		panic(err)
	}
	return &s
}

func sampleSegment(t testing.TB) Segment {
	t.Helper()
	l := &Log{super: *sample(), incarn: 0x1234, hash: 0xfeed}
	if err := l.allocate(); err != nil {
		t.Fatal(err)
	}
	l.rewindTo(Point{0, 3, 0xfeed})
	if !l.Begin(2, 1536) {
		t.Fatal("full")
	}
	b := make([]byte, 1024)
	blktest.Fill(b, 4096, 77)
	l.Add(Data, 4096, 1024, b)
	blktest.Fill(b[:512], 512, 78)
	l.Add(Data, 512, 512, b)
	l.Seal(blk.Instant{Wall: 1_700_000_000_000_000_000})
	s, err := Parse(l.RAM(0, int(l.info(3).bytes)), 8<<10)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Version 1 is frozen: these bytes never change.
func TestGolden(t *testing.T) {
	b := make([]byte, slotBytes)
	encodeSuper(b, sample())
	golden(t, "super-v1.bin", b)
	got, err := decodeSuper(b)
	if err != nil || *got != *sample() {
		t.Fatalf("%v\n%+v\n%+v", err, got, sample())
	}
	s := sampleSegment(t)
	golden(t, "segment-v1.bin", s.Raw)
	if s.LSN != 3 || s.PrevHash != 0xfeed || s.Records != 2 || s.Durable != 2 {
		t.Fatalf("%+v", s)
	}
	r := s.Record(1)
	if r.Kind != Data || r.Offset != 512 || r.Length != 512 {
		t.Fatalf("%+v", r)
	}
}

// What cannot be read is named for what it is.
func TestProbeNamesWhatItFinds(t *testing.T) {
	w := blktest.NewWorld(1)
	probeOf := func(change func(b []byte)) error {
		d := blktest.NewDisk(w, "x", simSize, 1000)
		if err := Create(d, newSuper(), w.Drive); err != nil {
			t.Fatal(err)
		}
		b := append([]byte(nil), d.Bytes()...)
		change(b)
		d.Restore(b)
		_, err := Probe(d, w.Drive)
		return err
	}
	both := func(b []byte, f func(slot []byte)) { f(b); f(b[slotBytes:]) }
	if err := probeOf(func([]byte) {}); err != nil {
		t.Error(err)
	}
	if err := probeOf(func(b []byte) { clear(b) }); !errors.Is(err, ErrBlank) {
		t.Error(err)
	}
	var f *ForeignError
	if err := probeOf(func(b []byte) { both(b, func(s []byte) { copy(s, "something") }) }); !errors.As(err, &f) {
		t.Error(err)
	}
	var v *VersionError
	if err := probeOf(func(b []byte) { both(b, func(s []byte) { s[8] = 2 }) }); !errors.As(err, &v) || v.Found != 2 {
		t.Error(err)
	}
	if err := probeOf(func(b []byte) { both(b, func(s []byte) { s[100] ^= 1 }) }); !errors.Is(err, ErrBadSuper) {
		t.Error(err)
	}
	var u *FeatureError
	if err := probeOf(func(b []byte) {
		s := newSuper()
		Layout(&s, simSize, 512)
		s.Start.LSN, s.Incompat = 1, 1<<40
		both(b, func(slot []byte) { encodeSuper(slot, &s) })
	}); !errors.As(err, &u) || u.Bits != 1<<40 {
		t.Error(err)
	}
	small := blktest.NewDisk(w, "small", 32<<10, 1000)
	s := newSuper()
	s.ChunkBytes, s.MaxSegmentBytes = 0, 0
	if err := Create(small, s, w.Drive); !errors.Is(err, ErrTooSmall) {
		t.Error(err)
	}
}

// A secondary whose log has larger blocks takes the primary's bytes as they are.
func TestAdopt(t *testing.T) {
	src, err := newSim(11)
	if err != nil {
		t.Fatal(err)
	}
	w := blktest.NewWorld(12)
	d := blktest.NewDisk(w, "4k", simSize, 1000)
	d.SetInfo(func(i *blk.Info) { i.PhysicalBytes = 4096 })
	if err := Create(d, newSuper(), w.Drive); err != nil {
		t.Fatal(err)
	}
	dst, err := Open(d, Options{}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	dst.NewReader("keeps it", 0)
	src.fill(t, 5)
	for lsn := LSN(1); lsn <= 3; lsn++ {
		raw := append([]byte(nil), src.h.raw[lsn]...)
		if lsn == 2 {
			raw[700] ^= 1
			if _, err := dst.Adopt(raw); !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			if _, err := dst.Adopt(src.h.raw[3]); !errors.Is(err, ErrOrder) {
				t.Fatal(err)
			}
			raw[700] ^= 1
		}
		if _, err := dst.Adopt(raw); err != nil {
			t.Fatal(lsn, err)
		}
	}
	for dst.Kick(w.Time()); dst.Durable() < 3; dst.Kick(w.Time()) {
		if !w.Step() {
			t.Fatal("quiet")
		}
	}
	n := 0
	again, err := Open(d, Options{Visit: func(s *Segment) {
		if !bytes.Equal(s.Raw, src.h.raw[s.LSN]) {
			t.Errorf("segment %d differs", s.LSN)
		}
		n++
	}}, w.Drive)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	a, _ := again.Hash(3)
	b, _ := src.l.Hash(3)
	if a != b {
		t.Fatal("the chains differ")
	}
	other := append([]byte(nil), src.h.raw[5]...)
	if _, err := again.Adopt(other); !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	l := nullLog(t)
	b := make([]byte, 4096)
	r := l.NewReader("x", 0)
	if n := testing.AllocsPerRun(2000, func() {
		if !l.Begin(1, 4096) {
			t.Fatal("full")
		}
		l.Add(Data, 4096, 4096, b)
		l.Seal(blk.Instant{})
		l.Kick(blk.Instant{})
		for g := r.Next(l.Durable()); g != nil; g = r.Next(l.Durable()) {
			r.Release(g.LSN)
		}
	}); n != 0 {
		t.Fatalf("%v allocations per append", n)
	}
}

// instant completes everything at once, without keeping it.
type instant struct{ size int64 }

func (d *instant) Info() blk.Info {
	return blk.Info{SizeBytes: d.size, LogicalBytes: 512, PhysicalBytes: 512}
}
func (d *instant) Submit(r *blk.Request)  { r.Err = 0; r.Owner.Complete(r) }
func (d *instant) Kick(blk.Instant) int64 { return blk.Never }
func (d *instant) Close() error           { return nil }

func nullLog(t testing.TB) *Log {
	t.Helper()
	s := Super{Volume: UUID{1}, DiskBytes: 1 << 30, DiskBlock: 512, Start: Point{LSN: 1}}
	d := &instant{64 << 20}
	if err := Layout(&s, d.size, 512); err != nil {
		t.Fatal(err)
	}
	l := &Log{dev: d, super: s}
	if err := l.allocate(); err != nil {
		t.Fatal(err)
	}
	l.rewindTo(s.Start)
	return l
}

func benchAppend(b *testing.B, n int) {
	l := nullLog(b)
	buf := make([]byte, n)
	r := l.NewReader("x", 0)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		if !l.Begin(1, int64(n)) {
			b.Fatal("full")
		}
		l.Add(Data, 0, int64(n), buf)
		l.Seal(blk.Instant{})
		l.Kick(blk.Instant{})
		for g := r.Next(l.Durable()); g != nil; g = r.Next(l.Durable()) {
			r.Release(g.LSN)
		}
	}
}

func BenchmarkAppend4K(b *testing.B)   { benchAppend(b, 4096) }
func BenchmarkAppend128K(b *testing.B) { benchAppend(b, 128<<10) }

func FuzzSegment(f *testing.F) {
	f.Add(sampleSegment(f).Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b, 1<<20)
		if err != nil {
			return
		}
		for i := range s.Records {
			s.Payload(s.Record(i))
		}
	})
}

func FuzzSuper(f *testing.F) {
	b := make([]byte, slotBytes)
	encodeSuper(b, sample())
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < slotBytes {
			return
		}
		if s, err := decodeSuper(b[:slotBytes]); err == nil && s.sane() != nil {
			t.Fatal("an insane superblock was accepted")
		}
	})
}
