//go:build vm

package ublk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
	"github.com/robib-ublk/robib/uring"
)

func TestKernelFeatures(t *testing.T) {
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bits, err := c.Features()
	if err != nil || bits&neededFeatures != neededFeatures {
		t.Fatalf("%#x %v", bits, err)
	}
}

// serve runs f on a device over what open gives, and checks that nothing of it is left.
func serve(t *testing.T, open func(*uring.Loop) (blk.Device, error), f func(dev string)) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	live, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, AddOptions{ID: -1}, open, func(d *Device, _ func(func(*Queues)) error) { live <- d.Path() })
	}()
	select {
	case dev := <-live:
		f(dev)
	case err := <-ended:
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob("/dev/ublk[bc]*"); err != nil || len(left) > 0 {
		t.Fatal("left behind: ", left, err)
	}
}

func TestNullTarget(t *testing.T) {
	for range 10 {
		serve(t, func(*uring.Loop) (blk.Device, error) { return &blk.Null{SizeBytes: 64 << 20}, nil }, func(dev string) {
			f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b, err := blk.Alloc(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			defer blk.Free(b)
			if _, err := f.WriteAt(b, 4096); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A device that was stopped, or not started yet, is not waited for: its server died in between.
func TestRecoveryOfAStoppedDevice(t *testing.T) {
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Add(AddOptions{ID: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StartRecovery(); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	if err := d.Del(); err != nil {
		t.Error(err)
	}
}

func TestFileTarget(t *testing.T) {
	back, err := filedev.OpenExclusive("/dev/vdb")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	b, err := blk.Alloc(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(b)
	for i := range b[:1<<20] {
		b[i] = byte(i * 7)
	}
	serve(t, func(l *uring.Loop) (blk.Device, error) { return filedev.Open(l, back, filedev.Options{}) }, func(dev string) {
		f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(b[:1<<20], 8192); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(b[1<<20:], 8192); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b[:1<<20], b[1<<20:]) {
			t.Fatal("what was read is not what was written")
		}
	})
}

// spare answers each read from a buffer of its own, as a device does that quarantines the one it was lent.
type spare struct{ b []byte }

func (s *spare) Info() blk.Info {
	return blk.Info{SizeBytes: 64 << 20, LogicalBytes: 512, PhysicalBytes: 4096}
}
func (s *spare) Kick(blk.Instant) int64 { return blk.Never }
func (s *spare) Close() error           { return nil }
func (s *spare) Submit(r *blk.Request) {
	r.Err = 0
	if r.Op == blk.Read {
		clear(r.Buf)
		r.Buf = s.b[:r.Length]
	}
	r.Owner.Complete(r)
}

// In copy mode a read's data is taken from the address given with the commit.
func TestSpareBuffer(t *testing.T) {
	b, err := blk.Alloc(DefaultMaxIO)
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(b)
	for i := range b {
		b[i] = 0xa5
	}
	serve(t, func(*uring.Loop) (blk.Device, error) { return &spare{b}, nil }, func(dev string) {
		f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := blk.Alloc(64 << 10)
		if err != nil {
			t.Fatal(err)
		}
		defer blk.Free(got)
		if _, err := f.ReadAt(got, 1<<20); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, b[:64<<10]) {
			t.Fatal("the spare buffer's data did not arrive")
		}
	})
}
