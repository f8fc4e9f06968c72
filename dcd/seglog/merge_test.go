package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// followed is a primary's segments, sealed one after another, each durable before the next, and a secondary's log.
type followed struct {
	w   *blktest.World
	dev *blktest.Disk
	l   *Log
	raw [][]byte
}

func (f *followed) settle(t *testing.T, l *Log) {
	t.Helper()
	for l.Kick(f.w.Time()); f.w.Step(); l.Kick(f.w.Time()) {
	}
	if l.Durable() < l.Sealed() || l.Busy() {
		t.Fatal("the world is quiet, and the log is not")
	}
}

func (f *followed) open(t *testing.T) error {
	t.Helper()
	l, err := Open(f.dev, Options{Incarnation: 2}, f.w.Drive)
	if err == nil {
		t.Cleanup(func() { l.Close() })
		f.l = l
	}
	return err
}

func (f *followed) adopt(t *testing.T, raws ...[]byte) {
	t.Helper()
	for _, r := range raws {
		if _, err := f.l.Adopt(r); err != nil {
			t.Fatal(err)
		}
	}
}

func newFollowed(t *testing.T, n, payload int) *followed {
	t.Helper()
	f := &followed{w: blktest.NewWorld(5)}
	s := Super{Volume: UUID{1}, Log: UUID{2}, DiskBytes: 1 << 30, DiskBlock: 512, ChunkBytes: 1 << 20}
	create := func(name string) *blktest.Disk {
		d := blktest.NewDisk(f.w, name, 4<<20, 1000)
		if err := Create(d, s, f.w.Drive); err != nil {
			t.Fatal(err)
		}
		return d
	}
	p, err := Open(create("primary"), Options{Incarnation: 1}, f.w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := p.NewReader("test", 0)
	buf := bytes.Repeat([]byte{7}, payload)
	for i := range n {
		if !p.Begin(1, int64(payload)) {
			t.Fatal("full")
		}
		p.Add(Data, int64(i)*int64(payload), int64(payload), buf)
		p.Seal(f.w.Time())
		f.raw = append(f.raw, bytes.Clone(r.Next(1<<20).Raw))
		f.settle(t, p)
	}
	f.dev = create("secondary")
	if err := f.open(t); err != nil {
		t.Fatal(err)
	}
	return f
}

// goneOn tears a merged append so that what left says is there of its segments, opens the log, goes on from there, by the
// primary or as one, and opens it again.
func goneOn(t *testing.T, left int, promoted bool) error {
	const alone = 2
	f := newFollowed(t, alone+mergedTogether, 4096)
	f.adopt(t, f.raw[:alone]...)
	f.settle(t, f.l)
	f.l.Merge(true)
	f.settle(t, f.l)
	before := f.l.Appends
	f.adopt(t, f.raw[alone:]...)
	f.settle(t, f.l)
	if n := f.l.Appends - before; n != 1 {
		return fmt.Errorf("%d appends", n)
	}
	b := bytes.Clone(f.dev.Bytes())
	clear(b[f.l.super.CheckpointOffset:][:f.l.super.CheckpointBytes]) // no summary was due yet
	end := LSN(alone)
	for i := range mergedTogether {
		g, _ := f.l.Lookup(LSN(alone + i + 1))
		if left&(1<<i) == 0 {
			clear(b[f.l.DeviceOffset(g.Pos):][:512])
		} else if end == LSN(alone+i) {
			end++
		}
	}
	f.dev.Restore(b)
	if err := f.open(t); err != nil || f.l.Sealed() != end {
		return fmt.Errorf("%w, ends at %d, not %d", err, f.l.Sealed(), end)
	}
	if promoted {
		f.l.Merge(false)
		f.l.Begin(1, 512)
		f.l.Add(Data, 0, 512, make([]byte, 512))
		f.l.Seal(f.w.Time())
		end++
	} else {
		f.l.Merge(true)
		f.adopt(t, f.raw[end:]...)
		end = LSN(len(f.raw))
	}
	f.settle(t, f.l)
	f.dev = f.dev.Crash()
	if err := f.open(t); err != nil || f.l.Sealed() != end {
		return fmt.Errorf("gone on: %w, ends at %d, not %d", err, f.l.Sealed(), end)
	}
	if said := f.l.super.Incompat&Merges != 0; said == promoted {
		return fmt.Errorf("the superblock still speaks of merged appends: %v", said)
	}
	return nil
}

const mergedTogether = 5

// A secondary that may appends several of the primary's segments at once, each of which declares the one before durable.
// Whatever of that append a power cut leaves, its log opens, ends before the first segment that is missing, goes on,
// and nothing that was left says anything later.
func TestMergedAppendsAreTorn(t *testing.T) {
	for left := range 1 << mergedTogether {
		for _, promoted := range []bool{false, true} {
			if err := goneOn(t, left, promoted); err != nil {
				t.Errorf("left %05b, then a primary %v: %v", left, promoted, err)
			}
		}
	}
}

// A cut takes away what was appended so: nothing speaks of it then.
func TestMergesEndWithACut(t *testing.T) {
	f := newFollowed(t, 6, 4096)
	f.l.Merge(true)
	f.settle(t, f.l)
	f.adopt(t, f.raw...)
	f.settle(t, f.l)
	if err := f.l.Cut(2, f.w.Drive); err != nil {
		t.Fatal(err)
	}
	f.l.Merge(false)
	f.settle(t, f.l)
	if f.l.super.Incompat&Merges != 0 {
		t.Error("the superblock speaks of appends of segments that are gone")
	}
}

// Rot that cannot be a torn append's is corruption, as ever: where no append is merged, and further from the end than
// one reaches.
func TestMergesHideNoRot(t *testing.T) {
	for name, x := range map[string]struct {
		merge bool
		n     int
		rot   LSN
		want  bool // that it is found
	}{
		"no merging":       {false, 6, 4, true},
		"within an append": {true, 6, 4, false},
		"further back":     {true, 60, 4, true},
		"the end":          {true, 60, 58, false},
	} {
		f := newFollowed(t, x.n, 4096)
		f.l.Merge(x.merge)
		f.settle(t, f.l)
		for _, r := range f.raw {
			f.adopt(t, r)
			f.settle(t, f.l)
		}
		b := bytes.Clone(f.dev.Bytes())
		clear(b[f.l.super.CheckpointOffset:][:f.l.super.CheckpointBytes])
		g, _ := f.l.Lookup(x.rot)
		b[f.l.DeviceOffset(g.Pos)+100] ^= 1
		f.dev.Restore(b)
		var rotten *CorruptError
		if err := f.open(t); errors.As(err, &rotten) != x.want || err != nil && rotten.LSN != x.rot {
			t.Errorf("%s: %v", name, err)
		}
	}
}
