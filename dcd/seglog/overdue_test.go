package seglog

import (
	"errors"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// A log device that does not answer a superblock write has failed after the deadline, also where its owner
// waits for nothing else and has never said what time it is.
func TestSyncIsBounded(t *testing.T) {
	w := blktest.NewWorld(1)
	d := blktest.NewDisk(w, "log", 256<<10, 1000)
	if err := Create(d, newSuper(), w.Drive); err != nil {
		t.Fatal(err)
	}
	l, err := Open(d, Options{Incarnation: 1, Deadline: 5e9}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	d.HangNth(blk.Write, 1)
	now, turns := int64(7e9), 0
	err = l.Sync(l.Update(func(s *Super) { s.Marks |= Ahead }), func() (blk.Instant, error) {
		if turns++; turns > 100 {
			t.Fatal("it waits for ever")
		}
		now += 1e9
		return blk.Instant{Mono: now}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "did not answer a superblock write within 5 s") || turns < 5 {
		t.Errorf("after %d s: %v", turns, err)
	}
}

// So has one that does not answer the block of a stage.
func TestStageIsBounded(t *testing.T) {
	w, d, _ := fuzzed(t)
	l, err := Open(d, Options{Incarnation: 2, Deadline: 5e9}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.BeginStage(Point{LSN: 5}, l.StageSpace(), 1, func(*Super) {}, w.Drive); err != nil {
		t.Fatal(err)
	}
	d.HangNth(blk.Write, 1)
	b, err := blk.Alloc(int(l.StageCost(4096)))
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(b)
	if ok, _ := l.Stage(&blk.Request{Length: 4096, Buf: b[:l.StageCost(4096)]}, false); !ok {
		t.Fatal("there is no room for a block")
	}
	for now := int64(100e9); now < 110e9; now += 1e9 {
		l.Kick(blk.Instant{Mono: now})
	}
	if err := l.Err(); err == nil || !strings.Contains(err.Error(), "did not answer a block of a sync within 5 s") {
		t.Error(err)
	}
}

// A segment that reaches beyond the disk is not taken, whoever sent it.
func TestAdoptKeepsToTheDisk(t *testing.T) {
	w := blktest.NewWorld(1)
	open := func(disk int64) *Log {
		d := blktest.NewDisk(w, "log", 256<<10, 1000)
		s := newSuper()
		s.DiskBytes = disk
		if err := Create(d, s, w.Drive); err != nil {
			t.Fatal(err)
		}
		l, err := Open(d, Options{Incarnation: 1}, w.Drive)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, x := range []struct {
		off, n int64
		ok     bool
	}{{1<<20 - 512, 512, true}, {1<<20 - 512, 1024, false}, {1 << 20, 512, false}, {2<<20 - 512, 512, false}} {
		from, to := open(2<<20), open(1<<20)
		from.Begin(1, x.n)
		from.Add(Data, x.off, x.n, make([]byte, x.n))
		from.Seal(w.Time())
		g, _ := from.Lookup(1)
		raw := append([]byte(nil), from.RAM(g.Pos, g.Bytes)...)
		if _, err := to.Adopt(raw); (err == nil) != x.ok || !x.ok && !errors.Is(err, ErrCorrupt) {
			t.Errorf("[%d, +%d): %v", x.off, x.n, err)
		}
	}
}
