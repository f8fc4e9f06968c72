package seglog

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// Before anybody reads a log nothing of it is given up, whatever is kicked meanwhile.
func TestNothingIsReclaimedBeforeReadersCome(t *testing.T) {
	w := blktest.NewWorld(1)
	d := blktest.NewDisk(w, "log", 1<<20, 1000)
	if err := Create(d, Super{Volume: UUID{1}, Log: UUID{2}, DiskBytes: 1 << 20, DiskBlock: 512, ChunkBytes: 128 << 10, MaxSegmentBytes: 16 << 10}, w.Drive); err != nil {
		t.Fatal(err)
	}
	open := func() *Log {
		l, err := Open(d, Options{Incarnation: 1}, w.Drive)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	l.NewReader("holds everything", 0)
	for range 30 {
		l.Begin(1, 8192)
		l.Add(Data, 0, 8192, make([]byte, 8192))
		l.Seal(w.Time())
		for l.Kick(w.Time()); l.InFlight() > 0; l.Kick(w.Time()) {
			w.Step()
		}
	}
	l = open()
	if err := l.Sync(l.Update(func(*Super) {}), w.Drive); err != nil {
		t.Fatal(err)
	}
	if l.First() != 1 || l.Super().Start.LSN != 1 {
		t.Fatalf("the log begins at LSN %d, its recovery start is %d", l.First(), l.Super().Start.LSN)
	}
}
