package seglog

import (
	"hash/crc32"
	"os"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// fuzzed is a small log with room for everything, whose pages tests write past it.
func fuzzed(f testing.TB) (*blktest.World, *blktest.Disk, *Log) {
	w := blktest.NewWorld(1)
	d := blktest.NewDisk(w, "log", 512<<10, 1000)
	if err := Create(d, newSuper(), w.Drive); err != nil {
		f.Fatal(err)
	}
	l, err := Open(d, Options{Incarnation: 1}, w.Drive)
	if err != nil {
		f.Fatal(err)
	}
	return w, d, l
}

// Whatever a summary page holds behind its head, whose checksum is right, is refused or keeps to the disk and the log.
func FuzzSummary(f *testing.F) {
	if b, err := os.ReadFile("testdata/summary-v1.bin"); err == nil {
		f.Add(b[sumHeader:], uint16(8))
	} else {
		f.Fatal(err)
	}
	f.Add([]byte{0x80, 0x80}, uint16(1))
	w, d, l := fuzzed(f)
	if l.super.CheckpointBytes == 0 {
		f.Fatal("this log has no place for summaries")
	}
	f.Fuzz(func(t *testing.T, body []byte, segments uint16) {
		n := roundUp(sumHeader+len(body), int(l.sums.unit))
		if int64(n) > l.super.CheckpointBytes/2 || n > len(l.sums.out) {
			return
		}
		b := make([]byte, max(n, 33<<10))[:n]
		le.PutUint32(b, sumMagic)
		le.PutUint32(b[8:], uint32(n))
		le.PutUint32(b[12:], uint32(segments))
		copy(b[16:32], l.super.Log[:])
		le.PutUint64(b[40:], 1)
		le.PutUint64(b[64:], l.super.SumEpoch)
		copy(b[sumHeader:], body)
		le.PutUint32(b[4:], crc32.Checksum(b, crcTab))
		if err := blk.Do(d, &blk.Request{Op: blk.Write, Offset: l.super.CheckpointOffset, Length: int64(n), Buf: b}, w.Drive); err != nil {
			t.Fatal(err)
		}
		p := &pageReader{l: l, drive: w.Drive}
		defer p.close()
		l.sums.pages = nil
		if err := p.load(); err != nil {
			t.Fatal("a page with a good head: ", err)
		}
		p.each(1, p.from, p.prev, func(g *Segment) error {
			if g.Bytes > int(l.super.MaxSegmentBytes) || g.HeaderBytes > g.Bytes || g.Records > maxRecords {
				t.Errorf("segment of %d bytes, header %d, %d records", g.Bytes, g.HeaderBytes, g.Records)
			}
			if err := g.within(l.super.DiskBytes); err != nil {
				t.Error(err)
			}
			return nil
		})
	})
}

// Whatever the pages of a dirty map hold, it opens, and marks too much at worst: no bit behind the volume, no point too many.
func FuzzDirtyMap(f *testing.F) {
	f.Add([]byte{}, []byte{}, true)
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, []byte{255, 255}, true)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}, []byte{1}, false)
	w, d, l := fuzzed(f)
	l.super.Marks |= DirtyMap
	f.Fuzz(func(t *testing.T, head, bits []byte, good bool) {
		b := make([]byte, 33<<10)[:2*dirtyPage]
		for i, part := range [][]byte{head, bits} {
			p := b[i*dirtyPage:][:dirtyPage]
			if i == 0 {
				copy(p[8:24], l.super.Log[:])
				le.PutUint64(p[24:], l.super.DirtyEpoch)
				le.PutUint64(p[32:], uint64(l.dirty.unit))
				copy(p[40:], part)
				le.PutUint32(p, headMagic)
			} else {
				le.PutUint64(p[8:], l.super.DirtyEpoch)
				copy(p[16:], part)
				le.PutUint32(p, bitsMagic)
			}
			if le.PutUint32(p[4:], pageSum(p)); !good {
				p[5] ^= 1
			}
		}
		if err := blk.Do(d, &blk.Request{Op: blk.Write, Offset: l.super.DirtyOffset, Length: int64(len(b)), Buf: b}, w.Drive); err != nil {
			t.Fatal(err)
		}
		o := &Log{dev: d, super: l.super}
		if err := o.openDirty(w.Drive); err != nil {
			t.Fatal(err)
		}
		defer blk.Free(o.dirty.mem)
		defer blk.Free(o.dirty.out)
		if m := &o.dirty; m.n > m.bits || len(m.points) > dirtyPoints || !good && (m.n != m.bits || len(m.points) > 0) {
			t.Errorf("%d of %d bits, %d points", m.n, m.bits, len(m.points))
		}
	})
}

// Whatever a block of a stage says of itself, with the right checksum, is refused or keeps to the disk and to what there is.
func FuzzStaged(f *testing.F) {
	f.Add(uint64(4096), uint64(1024), uint32(0), uint16(1536))
	f.Add(uint64(1<<20), uint64(512), uint32(1), uint16(512))
	f.Add(uint64(1<<63), uint64(1<<63), uint32(0), uint16(4096))
	l := &Log{super: *sample()}
	l.super.StageID = 5
	f.Fuzz(func(t *testing.T, off, length uint64, flags uint32, n uint16) {
		b := make([]byte, 64<<10)
		putStaged(b, 512, 5, 3, 0, 512, false)
		le.PutUint64(b[24:], off)
		le.PutUint64(b[32:], length)
		le.PutUint32(b[40:], flags)
		if length <= 32<<10 {
			le.PutUint32(b[44:], crc32.Checksum(b[512:512+length], crcTab))
		}
		le.PutUint32(b[4:], 0)
		le.PutUint32(b[4:], crc32.Checksum(b[:stageHead], crcTab))
		s, k, short, ok := l.ParseStaged(b[:n], 3)
		if ok && (short || s.Offset < 0 || s.Length <= 0 || s.Offset+s.Length > l.super.DiskBytes || s.Payload != nil && int64(len(s.Payload)) != s.Length || k > int64(n)) {
			t.Errorf("%d bytes, short %v: %+v", k, short, s)
		}
		if length%512 == 0 && length > 0 && length <= 4096 && off <= 1<<19 && off%512 == 0 && flags == 0 && int(n) >= 512+4096 && !ok {
			t.Error("a good one is refused")
		}
	})
}
