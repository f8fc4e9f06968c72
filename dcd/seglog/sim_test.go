package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// history is what a test knows of a log: every segment that was sealed in the life it follows.
type history struct {
	raw     map[LSN][]byte
	durable LSN
	start   LSN // oldest that recovery may begin at
}

type simLog struct {
	w    *blktest.World
	dev  *blktest.Disk
	l    *Log
	h    *history
	dest *Reader
	hold LSN // released up to
	buf  []byte
	cuts int

	summed int    // segments recovered from summaries
	burst  int    // segments sealed at once, at most
	lazy   bool   // nothing is released: the log fills up
	base   uint64 // last value given to the superblock's Base
	ticket uint64 // of that change
	stable uint64 // value known to be durable
}

const (
	simSize = 144 << 10
	lives   = 16
)

func newSuper() Super {
	return Super{Volume: UUID{1}, Log: UUID{2}, Term: Term{1, 7}, DiskBytes: 1 << 20, DiskBlock: 512, ChunkBytes: 16 << 10, MaxSegmentBytes: 4 << 10, DiskIdentity: "sim"}
}

func newSim(seed uint64) (*simLog, error) {
	w := blktest.NewWorld(seed)
	s := &simLog{w: w, dev: blktest.NewDisk(w, "log", simSize, 50_000), h: &history{raw: map[LSN][]byte{}, start: 1}, buf: make([]byte, 16<<10), burst: 1 + int(seed%2)*3}
	if err := Create(s.dev, newSuper(), w.Drive); err != nil {
		return nil, err
	}
	return s, s.open()
}

// open recovers and compares with the history: every durable segment is there, nothing but a prefix.
func (s *simLog) open() error {
	got := map[LSN][]byte{}
	l, err := Open(s.dev, Options{Incarnation: s.w.Rand.Uint64(), Visit: func(g *Segment) {
		got[g.LSN] = append([]byte(nil), g.Raw...)
		if g.Raw == nil {
			got[g.LSN] = s.bySummary(g)
		}
	}}, s.w.Drive)
	if err != nil {
		return err
	}
	if l.Sealed() < s.h.durable {
		return fmt.Errorf("recovered up to %d, %d was durable", l.Sealed(), s.h.durable)
	}
	if l.First() > s.hold+1 {
		return fmt.Errorf("recovery starts at %d, released was %d", l.First(), s.hold)
	}
	if b := l.Super().Base; b < s.stable || b > s.base {
		return fmt.Errorf("superblock change %d is there, %d was durable, %d asked for", b, s.stable, s.base)
	}
	s.base, s.stable, s.ticket = l.Super().Base, l.Super().Base, 0
	for lsn := l.First(); lsn <= l.Sealed(); lsn++ {
		if !bytes.Equal(got[lsn], s.h.raw[lsn]) {
			return fmt.Errorf("segment %d is not what was sealed", lsn)
		}
	}
	for lsn := range s.h.raw {
		if lsn > l.Sealed() {
			delete(s.h.raw, lsn) // cut; whatever comes back of it later is a fault
			s.cuts++
		}
	}
	s.h.durable = l.Sealed()
	s.l = l
	s.dest = l.NewReader("destage", l.First()-1)
	return nil
}

// bySummary compares what a summary says of a segment with what was sealed, and reads the
// segment itself from the disk.
func (s *simLog) bySummary(g *Segment) []byte {
	want, err := Parse(s.h.raw[g.LSN], 1<<20)
	if err != nil || want.Hash != g.Hash || want.Bytes != g.Bytes || want.Records != g.Records || want.Durable != g.Durable || want.HeaderBytes != g.HeaderBytes {
		return nil
	}
	for i := range g.Records {
		a, b := want.Record(i), g.Record(i)
		if a.Offset != b.Offset || a.Length != b.Length || a.Kind != b.Kind || b.At != g.Pos+Pos(a.off) {
			return nil
		}
	}
	s.summed++
	sup := newSuper()
	if err := Layout(&sup, simSize, 512); err != nil {
		return nil
	}
	at := sup.RingOffset + int64(g.Pos%Pos(sup.RingBytes))
	return append([]byte(nil), s.dev.Bytes()[at:at+int64(g.Bytes)]...)
}

// step does one random thing.
func (s *simLog) step() error {
	l := s.l
	before := l.Sealed()
	switch s.w.Rand.IntN(4) {
	case 0, 1:
		if l.InFlight() == 0 || s.w.Rand.IntN(2) == 0 {
			for range 1 + s.w.Rand.IntN(s.burst) {
				s.seal()
			}
		}
	case 2:
		if g := s.dest.Next(l.Durable()); g != nil {
			if !bytes.Equal(g.Raw, s.h.raw[g.LSN]) {
				return fmt.Errorf("reader: segment %d is not what was sealed", g.LSN)
			}
			if !s.lazy && s.w.Rand.IntN(3) > 0 {
				s.hold = max(s.hold, g.LSN)
				s.dest.Release(g.LSN)
			}
		} else if err := s.dest.Err(); err != nil {
			return err
		}
	case 3:
		l.Declare(s.w.Time())
	}
	switch s.w.Rand.IntN(40) {
	case 0:
		l.Trim()
	case 1:
		s.lazy = !s.lazy
	case 2:
		s.base++
		s.ticket = l.Update(func(x *Super) { x.Base = s.base })
	}
	l.Kick(s.w.Time())
	s.note(before)
	s.h.durable = max(s.h.durable, l.Durable())
	if l.Updated() >= s.ticket {
		s.stable = s.base
	}
	s.w.Step()
	return l.Err()
}

// note keeps what was sealed since.
func (s *simLog) note(before LSN) {
	for lsn := before + 1; lsn <= s.l.Sealed(); lsn++ {
		g, _ := s.l.Lookup(lsn)
		s.h.raw[lsn] = append([]byte(nil), s.l.RAM(g.Pos, g.Bytes)...)
	}
}

func (s *simLog) seal() {
	l, n := s.l, s.w.Rand.IntN(4)
	if s.w.Rand.IntN(3) > 0 {
		n = 1 // many of one size: where one was cut another fits exactly
	}
	sizes := make([]int64, n)
	total := int64(0)
	for i := range sizes {
		sizes[i] = int64(1+s.w.Rand.IntN(4)/2) * 512
		total += sizes[i]
	}
	if !l.Begin(n, total) {
		return
	}
	for _, k := range sizes {
		off := s.w.Rand.Int64N(1<<20-k) / 512 * 512
		blktest.Fill(s.buf[:k], off, s.w.Rand.Uint64())
		l.Add(Data, off, k, s.buf[:k])
	}
	l.Seal(s.w.Time())
}

// runSim runs one seed: several lives of one log, each ended by a power cut.
func runSim(seed uint64) (trace uint64, cuts int, err error) {
	s, err := newSim(seed)
	if err != nil {
		return 0, 0, err
	}
	for life := range lives {
		steps := 5 + s.w.Rand.IntN(150)
		if s.w.Rand.IntN(2) == 0 {
			steps = 1 + s.w.Rand.IntN(8) // a cut soon after a cut: old tails are still there
		}
		for range steps {
			if err := s.step(); err != nil {
				return 0, 0, fmt.Errorf("life %d: %w", life, err)
			}
		}
		s.dev = s.dev.Crash()
		if s.w.Rand.IntN(4) == 0 { // recovery interrupted by another cut
			if l, err := Open(s.dev, Options{Incarnation: s.w.Rand.Uint64()}, s.w.Drive); err == nil {
				l.Update(func(*Super) {})
				l.Kick(s.w.Time())
			}
			s.dev = s.dev.Crash()
		}
		if err := s.open(); err != nil {
			return 0, 0, fmt.Errorf("life %d: %w", life, err)
		}
	}
	return s.w.Trace, s.cuts, nil
}

func TestPowerCuts(t *testing.T) {
	n, cuts, seen := blktest.Seeds(t, 300), 0, map[uint64]bool{}
	for seed := range uint64(n) {
		trace, c, err := runSim(seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		seen[trace] = true
		cuts += c
	}
	again, _, err := runSim(1)
	if err != nil || !seen[again] {
		t.Fatalf("seed 1 is not deterministic (%v)", err)
	}
	if cuts == 0 {
		t.Fatal("no run ever cut a torn tail: the simulation tests nothing")
	}
	t.Logf("%d seeds, %d power cuts, %d distinct histories, %d torn segments cut", n, lives*n, len(seen), cuts)
}

// Every Nth operation fails in its turn, once and for ever, until none is left to fail: no
// segment may be called durable that is not there afterwards.
func TestEveryOperationFails(t *testing.T) {
	for _, sticky := range []bool{false, true} {
		for n := 1; ; n++ {
			s, err := newSim(7)
			if err != nil {
				t.Fatal(err)
			}
			s.dev.FailNthOfAny(n, 5, sticky)
			for range 60 {
				if s.step() != nil {
					break
				}
			}
			hits := s.dev.Hits
			s.dev.Heal()
			s.dev = s.dev.Crash()
			if err := s.open(); err != nil {
				t.Fatalf("operation %d failing (for ever: %v): %v", n, sticky, err)
			}
			if hits == 0 {
				if n < 20 {
					t.Fatalf("only %d operations", n)
				}
				break
			}
		}
	}
}

// fill seals n segments of one 512-byte record each and waits until they are durable.
func (s *simLog) fill(t *testing.T, n int) {
	t.Helper()
	for range n {
		if !s.l.Begin(1, 512) {
			t.Fatal("full")
		}
		blktest.Fill(s.buf[:512], 0, s.w.Rand.Uint64())
		s.l.Add(Data, 0, 512, s.buf[:512])
		lsn := s.l.Seal(s.w.Time())
		g, _ := s.l.Lookup(lsn)
		s.h.raw[lsn] = append([]byte(nil), s.l.RAM(g.Pos, g.Bytes)...)
		for s.l.Kick(s.w.Time()); s.l.Durable() < lsn; s.l.Kick(s.w.Time()) {
			if !s.w.Step() {
				t.Fatal("quiet")
			}
		}
	}
	s.h.durable = s.l.Durable()
}

// Rot anywhere in a declared segment is named as corruption, and never cuts what is newer; rot
// in the last, undeclared one cannot be told from a torn tail.
func TestRotIsNotATornTail(t *testing.T) {
	for victim := LSN(1); victim <= 5; victim++ {
		for _, at := range []int64{0, 70, 600} {
			s, err := newSim(uint64(victim))
			if err != nil {
				t.Fatal(err)
			}
			s.fill(t, 5)
			g, _ := s.l.Lookup(victim)
			b := s.dev.Bytes()
			s.noSummaries(b)
			b[s.l.DeviceOffset(g.Pos)+at] ^= 4
			s.dev.Restore(append([]byte(nil), b...))
			_, err = Open(s.dev, Options{Incarnation: 9}, s.w.Drive)
			var c *CorruptError
			if victim < 5 {
				if !errors.As(err, &c) || c.LSN != victim {
					t.Errorf("rot in segment %d: %v", victim, err)
				}
			} else if err != nil {
				t.Errorf("the last segment: %v", err)
			}
		}
	}
}

// What an append left that was torn behind its header declares nothing once the log was cut further back.
func TestCutBeforeATornTail(t *testing.T) {
	s, err := newSim(3)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 5)
	g, _ := s.l.Lookup(5)
	b := s.dev.Bytes()
	s.noSummaries(b)
	b[s.l.DeviceOffset(g.Pos)+600] ^= 4
	s.dev.Restore(bytes.Clone(b))
	for _, after := range []LSN{2, 2} {
		l, err := Open(s.dev, Options{Incarnation: 9}, s.w.Drive)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Cut(after, s.w.Drive); err != nil {
			t.Fatal(err)
		}
		s.dev = s.dev.Crash()
	}
}

// noSummaries takes the summaries away: the segments themselves have to tell.
func (s *simLog) noSummaries(b []byte) {
	clear(b[s.l.super.CheckpointOffset:][:s.l.super.CheckpointBytes])
}

// longLog is a log full of random 4-KiB writes, which nobody has released.
func longLog(t *testing.T) (*blktest.World, *blktest.Disk, *Log) {
	t.Helper()
	w := blktest.NewWorld(3)
	dev := blktest.NewDisk(w, "log", 96<<20, 1000)
	if err := Create(dev, Super{Volume: UUID{1}, Log: UUID{2}, DiskBytes: 1 << 30, DiskBlock: 512, ChunkBytes: 8 << 20}, w.Drive); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dev, Options{Incarnation: 1}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	l.NewReader("hold", 0)
	for l.Begin(16, 64<<10) {
		for range 16 {
			l.Add(Data, int64(w.Rand.IntN(1<<18))*4096, 4096, buf[:4096])
		}
		l.Seal(w.Time())
		for l.Kick(w.Time()); l.InFlight() > 0; l.Kick(w.Time()) {
			w.Step()
		}
	}
	return w, dev, l
}

// Recovery of a long log reads little of it, and finds all of it, also where pages are missing.
func TestRecoveryReadsSummaries(t *testing.T) {
	w, dev, l := longLog(t)
	for w.Step() {
		l.Kick(w.Time())
	}
	used, _ := l.Used()
	if l.sums.Written < 10 {
		t.Fatalf("%d pages for %d bytes", l.sums.Written, used)
	}
	damage := func(page int) *blktest.Disk {
		d := dev.Crash()
		if page >= 0 {
			b := append([]byte(nil), d.Bytes()...)
			b[l.super.CheckpointOffset+int64(l.sums.pages[page].at)+100] ^= 1
			d.Restore(b)
		}
		return d
	}
	for _, page := range []int{-1, 0, 5} {
		segments, records := 0, 0
		again, err := Open(damage(page), Options{Incarnation: 2, Visit: func(g *Segment) {
			segments++
			records += g.Records
		}}, w.Drive)
		if err != nil || again.Sealed() != l.Sealed() || again.Head() != l.Head() || segments != int(l.Sealed()) || records != 16*segments {
			t.Fatalf("page %d: %v, LSN %d of %d, %d segments, %d records", page, err, again.Sealed(), l.Sealed(), segments, records)
		}
		// How old the oldest is, is known, and no segment seems younger than it is.
		for lsn := LSN(1); lsn <= again.Sealed(); lsn++ {
			was, _ := l.Wall(lsn)
			if is, known := again.Wall(lsn); !known || is > was || lsn == 1 && is != was || was == 0 {
				t.Fatalf("page %d: segment %d was sealed at %d, after recovery at %d (%v)", page, lsn, was, is, known)
			}
		}
		for lsn := l.First(); lsn <= l.Sealed(); lsn++ {
			again.info(lsn).wall = l.info(lsn).wall
			if *l.info(lsn) != *again.info(lsn) {
				t.Fatalf("page %d: segment %d: %+v, was %+v", page, lsn, *again.info(lsn), *l.info(lsn))
			}
		}
		if read := again.RecoveryBytes(); page < 0 && read > used/25 {
			t.Errorf("%d bytes read of a log of %d", read, used) // a page covers 1/400; the tail and one read ahead add 1 MiB each
		} else {
			t.Logf("page %d damaged: %d bytes read of %d, %d pages", page, read, used, l.sums.Written)
		}
	}
	// Rot in a segment of which recovery read only the summary is found by whoever reads the segment.
	d := dev.Crash()
	b := append([]byte(nil), d.Bytes()...)
	g, _ := l.Lookup(2)
	b[l.DeviceOffset(g.Pos)+2000] ^= 4
	d.Restore(b)
	rotten, err := Open(d, Options{Incarnation: 9}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	r := rotten.NewReader("test", 0)
	for r.Position() < 5 && r.Err() == nil {
		if r.Next(5) == nil && !w.Step() {
			break
		}
	}
	if !errors.Is(r.Err(), ErrCorrupt) || r.Position() != 1 {
		t.Fatalf("at segment %d: %v", r.Position()+1, r.Err())
	}
}

// A read error is never taken for a hole.
func TestReadErrorIsNotAHole(t *testing.T) {
	s, err := newSim(3)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 5)
	g, _ := s.l.Lookup(5)
	s.dev.BadRange(s.l.DeviceOffset(g.Pos), 512)
	if _, err := Open(s.dev, Options{}, s.w.Drive); !errors.Is(err, ErrReadError) {
		t.Fatal(err)
	}
}

// A torn newest superblock falls back to the older slot, and the start in it is still good.
func TestTornSuperblock(t *testing.T) {
	for slot := range int64(2) {
		s, err := newSim(6)
		if err != nil {
			t.Fatal(err)
		}
		s.fill(t, 3)
		b := append([]byte(nil), s.dev.Bytes()...)
		copy(b[slot*slotBytes+4096:], bytes.Repeat([]byte{1}, 4096))
		s.dev.Restore(b)
		if err := s.open(); err != nil || s.l.Sealed() != 3 {
			t.Fatal(slot, err)
		}
		// The next one heals the damaged slot.
		if err := s.l.Sync(s.l.Update(func(x *Super) { x.Marks |= Degraded }), s.w.Drive); err != nil {
			t.Fatal(err)
		}
		if got, damaged, err := probe(s.dev, s.w.Drive); err != nil || damaged || got.Marks != Degraded {
			t.Fatal(slot, damaged, err, got.Marks)
		}
	}
}

// A cut tail never comes back, also when the segment before it is written again.
func TestCutNeverComesBack(t *testing.T) {
	s, err := newSim(8)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 6)
	if err := s.l.Cut(3, s.w.Drive); err != nil {
		t.Fatal(err)
	}
	s.h.durable = 3
	for lsn := LSN(4); lsn <= 6; lsn++ {
		delete(s.h.raw, lsn)
	}
	if err := s.open(); err != nil || s.l.Sealed() != 3 {
		t.Fatal(err, s.l.Sealed())
	}
	s.fill(t, 1)
	if err := s.open(); err != nil || s.l.Sealed() != 4 {
		t.Fatal(err, s.l.Sealed())
	}
}

// overwrites fills the ring, releases everything while the superblock with the new start never
// gets written, and reports whether the log then gives the old segments' space away.
func overwrites(t *testing.T) bool {
	t.Helper()
	s, err := newSim(13)
	if err != nil {
		t.Fatal(err)
	}
	for s.l.Begin(1, 512) {
		s.l.Add(Data, 0, 512, s.buf[:512])
		s.l.Seal(s.w.Time())
		for s.l.Kick(s.w.Time()); s.l.InFlight() > 0; s.l.Kick(s.w.Time()) {
			if !s.w.Step() {
				t.Fatal("quiet")
			}
		}
	}
	s.dest.Skip(s.l.Durable())
	s.dev.HangNth(blk.Write, 1)
	s.l.Trim()
	for range 5 {
		s.l.Kick(s.w.Time())
		s.w.Step()
	}
	if s.dev.Hung() == 0 {
		t.Fatal("no superblock was written")
	}
	return s.l.Begin(1, 512)
}

// Space is reused only when the superblock that gives it up is durable.
func TestReuseWaitsForTheSuperblock(t *testing.T) {
	if overwrites(t) {
		t.Fatal("reused before the recovery start was durable")
	}
}

// tornPair leaves a log whose append of two segments was torn: the first is gone, the second is
// whole and in its place.
func tornPair(t *testing.T) *simLog {
	t.Helper()
	s, err := newSim(8)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 2)
	for range 3 { // the first goes alone, the next two together behind it
		if !s.l.Begin(1, 512) {
			t.Fatal("full")
		}
		s.l.Add(Data, 0, 512, s.buf[:512])
		s.l.Seal(s.w.Time())
	}
	s.note(2)
	for s.l.Kick(s.w.Time()); s.l.Durable() < 5; s.l.Kick(s.w.Time()) {
		if !s.w.Step() {
			t.Fatal("quiet")
		}
	}
	s.h.durable = 3 // as if the power had gone before the second append was over
	g, _ := s.l.Lookup(4)
	b := append([]byte(nil), s.dev.Bytes()...)
	clear(b[s.l.DeviceOffset(g.Pos):][:1024])
	s.noSummaries(b)
	s.dev.Restore(b)
	return s
}

// A whole segment behind a torn one is not followed, not even when another one of the same size
// is written in the torn one's place: its hash is another.
func TestTornPairNeverComesBack(t *testing.T) {
	s := tornPair(t)
	if err := s.open(); err != nil || s.l.Sealed() != 3 {
		t.Fatal(err, s.l.Sealed())
	}
	s.fill(t, 1)
	if err := s.open(); err != nil || s.l.Sealed() != 4 {
		t.Fatal(err, s.l.Sealed())
	}
}

// After a Reset for a full sync the log goes on after another history, and forgets its own.
func TestReset(t *testing.T) {
	s, err := newSim(9)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 6)
	if err := s.l.Reset(Point{LSN: 3, PrevHash: 77}, func(x *Super) { x.Marks = Inconsistent }, s.w.Drive); err != nil {
		t.Fatal(err)
	}
	s.h.raw, s.h.durable, s.hold = map[LSN][]byte{}, 2, 2
	if err := s.open(); err != nil || s.l.Sealed() != 2 || s.l.First() != 3 || s.l.Super().Marks != Inconsistent {
		t.Fatal(err, s.l.First(), s.l.Sealed())
	}
	if h, ok := s.l.Hash(2); !ok || h != 77 {
		t.Fatal(h, ok)
	}
}

// A power cut at any point of a Reset leaves a log that opens: as it was, or empty and with what the
// caller changes; and then the Reset is done again.
func TestResetCutAnywhere(t *testing.T) {
	errCut := errors.New("power cut")
	for _, keep := range []bool{false, true} {
		for steps, whole := 1, false; !whole; steps++ {
			s, err := newSim(9)
			if err != nil {
				t.Fatal(err)
			}
			s.fill(t, 6)
			s.w.Batch = 1
			reset := func(drive blk.Drive) error {
				return s.l.Reset(Point{LSN: 3, PrevHash: 77}, func(x *Super) { x.Marks = Inconsistent }, drive)
			}
			left := steps
			err = reset(func() (blk.Instant, error) {
				if left--; left < 0 {
					return blk.Instant{}, errCut
				}
				return s.w.Drive()
			})
			if whole = err == nil; !whole && !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			s.dev = s.dev.CrashKeeping(keep)
			l, err := Open(s.dev, Options{Incarnation: 4}, s.w.Drive)
			if err != nil {
				t.Fatalf("cut after %d steps, keeping all %v: %v", steps, keep, err)
			}
			if marks := l.Super().Marks; marks != Inconsistent && (marks != 0 || l.Sealed() != 6) || whole && l.Sealed() != 2 {
				t.Fatalf("cut after %d steps, keeping all %v: it ends at LSN %d, %v", steps, keep, l.Sealed(), marks)
			}
			l.NewReader("destage", l.First()-1)
			if s.l = l; reset(s.w.Drive) != nil || l.Sealed() != 2 {
				t.Fatalf("once more after %d steps: LSN %d", steps, l.Sealed())
			}
		}
	}
}

// While log-device reads are under way, what they read is not overwritten; constant reading
// does not starve reuse either.
func TestPinsHoldReuse(t *testing.T) {
	s, err := newSim(10)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 8)
	for s.dest.Next(8) != nil {
	}
	s.hold = 8
	s.dest.Release(8)
	p := s.l.Pin()
	free := s.l.rec.free
	s.l.Trim()
	for range 30 {
		s.l.Kick(s.w.Time())
		s.w.Step()
	}
	if s.l.rec.free != free {
		t.Fatal("reused under a read")
	}
	q := s.l.Pin() // a newer read must not hold the older space
	s.l.Unpin(p)
	s.l.Kick(s.w.Time())
	if s.l.rec.free == free {
		t.Fatal("a newer read starves reuse")
	}
	s.l.Unpin(q)
}

var _ blk.Device = (*blktest.Disk)(nil)
