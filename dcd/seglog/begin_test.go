package seglog

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// A log that was given another beginning goes on there, remembers how far a refill is, also that none
// has begun, and seals the next segment of the chain.
func TestBegin(t *testing.T) {
	w := blktest.NewWorld(1)
	dev := blktest.NewDisk(w, "log", simSize, 1000)
	s := Super{Volume: UUID{1}, Log: UUID{2}, DiskBytes: 1 << 20, DiskBlock: 512, MaxSegmentBytes: 4096, ChunkBytes: 16 << 10, Marks: Ended}
	if err := Create(dev, s, w.Drive); err != nil {
		t.Fatal(err)
	}
	for _, refilled := range []int64{-1, 0, 512 << 10} {
		s.Start, s.Marks, s.Refilled = Point{LSN: 41, PrevHash: 99}, HasPeer|NeedsRefill, refilled
		if err := Begin(dev, s, w.Drive); err != nil {
			t.Fatal(err)
		}
		dev = dev.Crash()
		got, err := Probe(dev, w.Drive)
		if err != nil || got.Start != s.Start || got.Marks != s.Marks || got.Refilled != refilled || got.Volume != s.Volume {
			t.Errorf("%+v, %v", got, err)
		}
	}
	l, err := Open(dev, Options{Incarnation: 3}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if h, ok := l.Hash(40); l.Sealed() != 40 || !ok || h != 99 {
		t.Errorf("it ends at LSN %d, hash %d %v", l.Sealed(), h, ok)
	}
	l.NewReader("destage", 40)
	if !l.Begin(1, 512) {
		t.Fatal("no room")
	}
	l.Add(Data, 0, 512, make([]byte, 512))
	if lsn := l.Seal(blk.Instant{Mono: 1}); lsn != 41 {
		t.Errorf("the next segment is %d", lsn)
	}
	for l.Kick(w.Time()); l.Durable() < 41 || l.Busy(); l.Kick(w.Time()) {
		if _, err := w.Drive(); err != nil {
			t.Fatal(err)
		}
	}
}
