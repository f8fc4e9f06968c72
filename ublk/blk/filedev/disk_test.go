package filedev

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
	"github.com/robib-ublk/robib/uring"
)

func TestContractOnAFile(t *testing.T) {
	f := openExclusive(t, tempPath(t, 8<<20+512))
	onDisk(t, f, Options{Depth: 4}, func(d *Disk, drive blk.Drive) { blktest.Contract(t, d, drive) })
}

// A loop device is the one real block device that every machine has.
func TestContractOnALoopDevice(t *testing.T) {
	for _, block := range []string{"512", "4096"} {
		t.Run(block, func(t *testing.T) {
			f := openExclusive(t, loopDevice(t, tempPath(t, 8<<20), "--sector-size", block))
			onDisk(t, f, Options{Depth: 4}, func(d *Disk, drive blk.Drive) {
				if i := d.Info(); !i.Discard || !i.WriteZeroes {
					t.Errorf("a loop device over a file zeroes: %+v", i)
				}
				blktest.Contract(t, d, drive)
			})
		})
	}
}

// With steps of two blocks every longer request is finished in many.
func TestContractInSmallSteps(t *testing.T) {
	f := openExclusive(t, tempPath(t, 8<<20))
	onDisk(t, f, Options{}, func(d *Disk, drive blk.Drive) {
		d.transfer, d.zero = 8192, 8192
		blktest.Contract(t, d, drive)
	})
}

// Where the kernel can zero in one way only, that one serves.
func TestContractWithOneWayToZero(t *testing.T) {
	for _, set := range []func(d *Disk){func(d *Disk) { d.noPunch = true }, func(d *Disk) { d.noZero = true }} {
		f := openExclusive(t, tempPath(t, 8<<20))
		onDisk(t, f, Options{}, func(d *Disk, drive blk.Drive) {
			set(d)
			blktest.Contract(t, d, drive)
		})
	}
}

// A discard gives the file's space back, zeroing with NoUnmap does not.
func TestDiscardFreesSpace(t *testing.T) {
	path := tempPath(t, 8<<20)
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	f := openExclusive(t, path)
	b := memory(t, 1<<20)
	onDisk(t, f, Options{}, func(d *Disk, drive blk.Drive) {
		do := func(op blk.Op, flags blk.Flags, buf []byte) {
			if err := blk.Do(d, &blk.Request{Op: op, Flags: flags, Offset: 1 << 20, Length: 1 << 20, Buf: buf}, drive); err != nil {
				t.Error(err)
			}
		}
		do(blk.Write, blk.FUA, b)
		full := blocks()
		if do(blk.WriteZeroes, blk.NoUnmap|blk.FUA, nil); blocks() < full {
			t.Errorf("NoUnmap: %d sectors of %d are left", blocks(), full)
		}
		if do(blk.Discard, 0, nil); blocks() > full-2000 {
			t.Errorf("discard: %d sectors of %d are left", blocks(), full)
		}
	})
}

// A read past the end of a file that shrank is an error, never zeros; a write past the end of a
// disk is refused before it makes a file longer.
func TestBeyondTheEnd(t *testing.T) {
	path := tempPath(t, 1<<20)
	f := openExclusive(t, path)
	b := memory(t, 8192)
	onDisk(t, f, Options{Depth: 2}, func(d *Disk, drive blk.Drive) {
		try := func(op blk.Op, off, n int64) error {
			return blk.Do(d, &blk.Request{Op: op, Offset: off, Length: n, Buf: b[:n]}, drive)
		}
		if err := try(blk.Write, 1<<20-4096, 8192); err != syscall.EINVAL {
			t.Errorf("write over the end: %v", err)
		}
		if st, err := f.Stat(); err != nil || st.Size() != 1<<20 {
			t.Errorf("the file has %d bytes now, %v", st.Size(), err)
		}
		for _, size := range []int64{512 << 10, 512<<10 - 100} {
			if err := f.Truncate(size); err != nil {
				t.Error(err)
			}
			for _, off := range []int64{512<<10 - 4096, 512 << 10} {
				if err := try(blk.Read, off, 8192); err != syscall.EIO {
					t.Errorf("read at %d of %d bytes: %v", off, size, err)
				}
			}
		}
	})
}

// What the contract forbids, and what the device does not offer, never reaches the kernel.
func TestRefusedRequests(t *testing.T) {
	path := tempPath(t, 1<<20)
	b := memory(t, 4096)
	f := openExclusive(t, path)
	ro, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	rows := []struct {
		name string
		file *os.File
		o    Options
		r    blk.Request
		want error
	}{
		{"read", ro, Options{}, blk.Request{Op: blk.Read, Length: 4096, Buf: b}, nil},
		{"flush", ro, Options{}, blk.Request{Op: blk.Flush}, nil},
		{"write, read-only descriptor", ro, Options{}, blk.Request{Op: blk.Write, Length: 4096, Buf: b}, syscall.EROFS},
		{"write, read-only use", f, Options{ReadOnly: true}, blk.Request{Op: blk.Write, Length: 4096, Buf: b}, syscall.EROFS},
		{"discard, read-only use", f, Options{ReadOnly: true}, blk.Request{Op: blk.Discard, Length: 4096}, syscall.EROFS},
		{"unknown", f, Options{}, blk.Request{Op: 77, Length: 4096}, syscall.EOPNOTSUPP},
		{"empty", f, Options{}, blk.Request{Op: blk.Read, Buf: b}, syscall.EINVAL},
		{"negative", f, Options{}, blk.Request{Op: blk.Read, Offset: -4096, Length: 4096, Buf: b}, syscall.EINVAL},
		{"wrapping", f, Options{}, blk.Request{Op: blk.Discard, Offset: 1<<63 - 512, Length: 4096}, syscall.EINVAL},
		{"misaligned", f, Options{}, blk.Request{Op: blk.Read, Offset: 100, Length: 512, Buf: b}, syscall.EINVAL},
	}
	for _, row := range rows {
		onDisk(t, row.file, row.o, func(d *Disk, drive blk.Drive) {
			if err := blk.Do(d, &row.r, drive); err != row.want && !(err == nil && row.want == nil) {
				t.Errorf("%s: %v, should be %v", row.name, err, row.want)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	path := tempPath(t, 1<<20)
	buffered, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer buffered.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	onLoop(t, func(l *uring.Loop, _ blk.Drive) {
		if _, err := Open(l, buffered, Options{}); !errors.Is(err, ErrNotDirect) {
			t.Errorf("without O_DIRECT: %v", err)
		}
		if _, err := Open(l, dir, Options{}); !errors.Is(err, ErrNotDisk) {
			t.Errorf("a directory: %v", err)
		}
		if _, err := Open(l, buffered, Options{ReadOnly: true, Depth: 1 << 20}); err == nil {
			t.Error("a depth of a million")
		}
	})
}

// A disk that became read-only after it was opened is refused for writing and read all the same.
func TestReadOnlyDisk(t *testing.T) {
	dev := loopDevice(t, tempPath(t, 4<<20))
	f := openExclusive(t, dev)
	// The flag is the device node's: it would outlive the file behind it.
	t.Cleanup(func() { run(t, "blockdev", "--setrw", dev) })
	run(t, "blockdev", "--setro", dev)
	onLoop(t, func(l *uring.Loop, _ blk.Drive) {
		if _, err := Open(l, f, Options{}); !errors.Is(err, ErrReadOnly) {
			t.Error(err)
		}
	})
	b := memory(t, 4096)
	onDisk(t, f, Options{ReadOnly: true}, func(d *Disk, drive blk.Drive) {
		if err := blk.Do(d, &blk.Request{Op: blk.Read, Length: 4096, Buf: b}, drive); err != nil || !d.Info().ReadOnly {
			t.Error(err, d.Info())
		}
	})
	f.Close()
	if _, err := OpenExclusive(dev); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
}

func TestCloseWithOperationsInFlight(t *testing.T) {
	f := openExclusive(t, tempPath(t, 1<<20))
	b := memory(t, 8192)
	onLoop(t, func(l *uring.Loop, drive blk.Drive) {
		d, err := Open(l, f, Options{Depth: 1})
		if err != nil {
			t.Error(err)
			return
		}
		var done count
		for i := range 2 {
			d.Submit(&blk.Request{Op: blk.Read, Length: 4096, Buf: b[i*4096:][:4096], Owner: &done})
		}
		if d.Close() == nil {
			t.Error("closed with one operation in flight and one waiting")
		}
		for done < 2 {
			d.Kick(blk.Instant{})
			if _, err := drive(); err != nil {
				t.Error(err)
				return
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Opening and closing leaves nothing behind: the loop's file table has room for far fewer.
func TestSlotsAreGivenBack(t *testing.T) {
	f := openExclusive(t, tempPath(t, 1<<20))
	b := memory(t, 4096)
	onLoop(t, func(l *uring.Loop, drive blk.Drive) {
		for i := range 3000 {
			d, err := Open(l, f, Options{Depth: 1})
			if err != nil {
				t.Errorf("open %d: %v", i, err)
				return
			}
			if i%500 == 0 {
				err = blk.Do(d, &blk.Request{Op: blk.Read, Length: 4096, Buf: b}, drive)
			}
			if err = errors.Join(err, d.Close()); err != nil {
				t.Errorf("round %d: %v", i, err)
				return
			}
		}
	})
}

func TestRequestAllocatesNothing(t *testing.T) {
	f := openExclusive(t, tempPath(t, 1<<20))
	b := memory(t, 16384)
	onDisk(t, f, Options{Depth: 4}, func(d *Disk, drive blk.Drive) {
		d.transfer = 4096
		var done count
		now, reqs := blk.Instant{}, make([]blk.Request, 8)
		for i := range reqs {
			reqs[i] = blk.Request{Op: blk.Write, Length: 8192, Buf: b[:8192], Owner: &done}
			if i%2 == 0 {
				reqs[i].Op, reqs[i].Buf = blk.Read, b[8192:]
			}
		}
		reqs[7] = blk.Request{Op: blk.Flush, Owner: &done}
		if n := testing.AllocsPerRun(100, func() {
			want := done + count(len(reqs))
			for i := range reqs {
				d.Submit(&reqs[i])
			}
			for d.Kick(now); done < want; d.Kick(now) {
				if _, err := drive(); err != nil {
					t.Error(err)
					return
				}
			}
		}); n != 0 {
			t.Errorf("%v allocations per batch", n)
		}
	})
}

// Data that was written is in the file, not only in what the device says.
func TestDataIsInTheFile(t *testing.T) {
	path := tempPath(t, 1<<20)
	f := openExclusive(t, path)
	b := memory(t, 4096)
	blktest.Fill(b, 8192, 7)
	onDisk(t, f, Options{}, func(d *Disk, drive blk.Drive) {
		if err := blk.Do(d, &blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: 8192, Length: 4096, Buf: b}, drive); err != nil {
			t.Error(err)
		}
	})
	all, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(all[8192:12288], b) || len(bytes.Trim(all[:8192], "\x00")) > 0 {
		t.Fatal("the file holds something else", err)
	}
}

type count int

func (c *count) Complete(*blk.Request) { *c++ }

func BenchmarkRead4K(b *testing.B) {
	path := b.TempDir() + "/disk"
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := OpenExclusive(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	mem, err := blk.Alloc(4096)
	if err != nil {
		b.Fatal(err)
	}
	defer blk.Free(mem)
	l, err := uring.NewLoop(uring.LoopOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	d, err := Open(l, f, Options{})
	if err != nil {
		b.Fatal(err)
	}
	var done count
	r := blk.Request{Op: blk.Read, Length: 4096, Buf: mem, Owner: &done}
	b.ReportAllocs()
	for b.Loop() {
		want := done + 1
		for d.Submit(&r); done < want; {
			if _, err := l.Once(blk.Never); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
