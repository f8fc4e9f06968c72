package seglog

import (
	"bytes"
	"errors"
	"testing"
)

// dm-writeboost's recovery (apply_valid_segments) goes once round its ring, from the segment
// behind the newest one, and applies whatever has a good checksum, whatever its id: where the
// newest lap's write never reached the disk, the slot still holds a whole segment of the lap
// before, and that one is replayed over segments newer than itself. And at the first bad
// checksum it stops: rot in a segment that was written back long ago discards every newer one,
// acknowledged or not. The tests here, and those of the same name in dcd, hold both faults
// against this log.

// laps goes round the ring n times, everything released as it goes, and then as far as the next
// segment falls on a place that an older one filled; then k segments more are sealed and held.
// It gives the raw segment that lies at that place.
func (s *simLog) laps(t *testing.T, n, k int) (old []byte) {
	t.Helper()
	sizes := map[int64][]byte{}
	for s.l.Head() < Pos(n)*Pos(s.l.super.RingBytes) {
		s.fill(t, 1)
		g, _ := s.l.Lookup(s.l.Sealed())
		sizes[s.l.DeviceOffset(g.Pos)] = append([]byte(nil), s.h.raw[g.LSN]...)
		s.releaseAll()
	}
	for sizes[s.l.DeviceOffset(s.l.Head())] == nil {
		s.fill(t, 1)
		s.releaseAll()
	}
	old = sizes[s.l.DeviceOffset(s.l.Head())]
	s.fill(t, k)
	return old
}

// releaseAll releases what is sealed and waits for the superblock that says so.
func (s *simLog) releaseAll() {
	for s.dest.Next(s.l.Durable()) != nil {
	}
	s.hold = s.l.Durable()
	s.dest.Release(s.hold)
	s.l.Trim()
	for s.l.Kick(s.w.Time()); s.l.Super().Start.LSN <= s.hold || s.l.Updated() < s.l.sup.ticket; s.l.Kick(s.w.Time()) {
		s.w.Step()
	}
	for s.w.Step() {
		s.l.Kick(s.w.Time())
	}
}

// A segment of an earlier lap that lies just where the next one is due is not followed, though
// every checksum in it is good: neither as it is, nor with the LSN, the volume and the term that
// are due, which leaves only the chain of hashes to tell.
func TestOlderLapIsNotReplayed(t *testing.T) {
	for _, forged := range []bool{false, true} {
		for _, summaries := range []bool{true, false} {
			s, err := newSim(4)
			if err != nil {
				t.Fatal(err)
			}
			old := s.laps(t, 3, 0)
			s.fill(t, 1) // lost below: the place holds the old lap's segment again
			lost, _ := s.l.Lookup(s.l.Sealed())
			last := s.l.Sealed() - 1
			if forged {
				g, err := Parse(old, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				g.LSN, g.Durable = lost.LSN, last-1
				putHeader(&g)
			}
			b := append([]byte(nil), s.dev.Bytes()...)
			copy(b[s.l.DeviceOffset(lost.Pos):], old)
			if !summaries {
				s.noSummaries(b)
			}
			s.dev.Restore(b)
			s.h.durable = last // the disk lied about the last one, or the power went before it was done
			if err := s.open(); err != nil || s.l.Sealed() != last {
				t.Fatalf("forged %v: %v: recovered up to %d, want %d", forged, err, s.l.Sealed(), last)
			}
			// The chain goes on over it, and it does not come back behind that.
			s.fill(t, 2)
			if err := s.open(); err != nil || s.l.Sealed() != last+2 {
				t.Fatalf("forged %v: %v: then up to %d, want %d", forged, err, s.l.Sealed(), last+2)
			}
		}
	}
}

// The same in the middle of segments that were durable: it is corruption, and nothing is applied
// or cut.
func TestOlderLapAmongDurableSegmentsIsCorruption(t *testing.T) {
	s, err := newSim(4)
	if err != nil {
		t.Fatal(err)
	}
	old := s.laps(t, 2, 4)
	victim := s.l.Sealed() - 3
	g, _ := s.l.Lookup(victim)
	b := append([]byte(nil), s.dev.Bytes()...)
	copy(b[s.l.DeviceOffset(g.Pos):], old)
	s.noSummaries(b)
	s.dev.Restore(b)
	var c *CorruptError
	if err := s.open(); !errors.As(err, &c) || c.LSN != victim {
		t.Fatalf("%v, want segment %d named", err, victim)
	}
}

// Rot before the recovery start, where everything is written back, loses nothing: it is never
// looked at. The first segment behind it may lie anywhere in the ring.
func TestRotBeforeTheStartLosesNothing(t *testing.T) {
	for _, laps := range []int{0, 1, 3} {
		s, err := newSim(5)
		if err != nil {
			t.Fatal(err)
		}
		if laps > 0 {
			s.laps(t, laps, 0)
		}
		from := s.l.Sealed()
		s.fill(t, 10)
		for s.dest.Next(from+4) != nil {
		}
		s.hold = from + 4
		s.dest.Release(s.hold)
		s.l.Trim()
		var off []int64
		for lsn := from + 1; lsn <= from+4; lsn++ {
			g, _ := s.l.Lookup(lsn)
			off = append(off, s.l.DeviceOffset(g.Pos))
		}
		for range 20 {
			s.l.Kick(s.w.Time())
			s.w.Step()
		}
		b := append([]byte(nil), s.dev.Bytes()...)
		for _, o := range off {
			copy(b[o:o+600], bytes.Repeat([]byte{0xee}, 600))
		}
		s.noSummaries(b)
		s.dev.Restore(b)
		if err := s.open(); err != nil || s.l.Sealed() != from+10 || s.l.First() != from+5 {
			t.Fatalf("after %d laps: %v: %d to %d", laps, err, s.l.First(), s.l.Sealed())
		}
	}
}
