package filedev

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
	"github.com/robib-ublk/robib/uring"
)

// onDisk runs f on a device over file, on a loop of its own.
func onDisk(t *testing.T, file *os.File, depth int, f func(d *Disk, drive blk.Drive)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err := uring.NewLoop(uring.LoopOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		d, err := Open(l, file, Options{Depth: depth})
		if err != nil {
			t.Error(err)
			return
		}
		f(d, func() (blk.Instant, error) {
			now, err := l.Once(blk.Never)
			return blk.Instant{Mono: now}, err
		})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	<-done
}

func tempDisk(t *testing.T, size int64) *os.File {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, size); err != nil {
		t.Fatal(err)
	}
	f, err := OpenExclusive(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestContractOnAFile(t *testing.T) {
	onDisk(t, tempDisk(t, 8<<20), 4, func(d *Disk, drive blk.Drive) { blktest.Contract(t, d, drive) })
}

// A loop device is the one real block device that every machine has.
func TestContractOnALoopDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root; CI runs as root")
	}
	back := tempDisk(t, 8<<20)
	back.Close()
	out, err := exec.Command("losetup", "--find", "--show", back.Name()).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", dev).Run()
	f, err := OpenExclusive(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if g, err := OpenExclusive(dev); err == nil {
		g.Close()
		t.Error("a disk was opened twice")
	}
	onDisk(t, f, 4, func(d *Disk, drive blk.Drive) { blktest.Contract(t, d, drive) })
}

func TestAFileIsOpenedOnce(t *testing.T) {
	f := tempDisk(t, 1<<20)
	if g, err := OpenExclusive(f.Name()); err == nil {
		g.Close()
		t.Fatal("opened twice")
	}
}

// Short results go on where they stopped; only the last one completes the request.
func TestShortResultsAreFinished(t *testing.T) {
	o := op{r: &blk.Request{Op: blk.Write, Length: 8192}}
	for i, s := range []struct {
		res  int32
		more bool
	}{{-int32(unix.EINTR), true}, {512, true}, {-int32(unix.EAGAIN), true}, {4096, true}, {3584, false}} {
		if got := o.step(s.res); got != s.more {
			t.Fatalf("step %d (%d): more %v", i, s.res, got)
		}
	}
	if o.r.Err != 0 || o.done != 8192 {
		t.Fatal(o.r.Err, o.done)
	}
	for _, res := range []int32{0, -int32(unix.ENOSPC)} {
		o := op{r: &blk.Request{Op: blk.Read, Length: 8192}}
		if o.step(res) || o.r.Err == 0 {
			t.Fatalf("%d passed as a success", res)
		}
	}
}

// A read past the end of a file that shrank is an error, never zeros.
func TestShrunkFileIsAnError(t *testing.T) {
	f := tempDisk(t, 1<<20)
	onDisk(t, f, 2, func(d *Disk, drive blk.Drive) {
		if err := f.Truncate(512 << 10); err != nil {
			t.Error(err)
		}
		b, err := blk.Alloc(8192)
		if err != nil {
			t.Error(err)
			return
		}
		defer blk.Free(b)
		if err := blk.Do(d, &blk.Request{Op: blk.Read, Offset: 512<<10 - 4096, Length: 8192, Buf: b}, drive); err != syscall.EIO {
			t.Error(err)
		}
	})
}

func TestSignature(t *testing.T) {
	const size = 4 << 20
	rows := map[string]struct {
		off   int
		magic string
	}{
		"an ext2, ext3 or ext4 file system": {0x438, "\x53\xef"},
		"an xfs file system":                {0, "XFSB"},
		"an LVM physical volume":            {512, "LABELONE"},
		"a GPT partition table":             {512, "EFI PART"},
		"a member of an md array":           {size - 0x2000, "\xfc\x4e\x2b\xa9"},
		RobibLog:                            {0, "ROBIBLOG"},
	}
	for want, r := range rows {
		b := make([]byte, size)
		copy(b[r.off:], r.magic)
		if what, found, err := Signature(bytes.NewReader(b), size); err != nil || !found || what != want {
			t.Errorf("%s: %q %v %v", want, what, found, err)
		}
	}
	b := make([]byte, size)
	if what, found, err := Signature(bytes.NewReader(b), size); found || err != nil {
		t.Error(what, err)
	}
	for off, want := range map[int]string{100: "first MiB", size - 1: "last MiB", size / 2: ""} {
		b := make([]byte, size)
		b[off] = 1
		if got, err := NonZero(bytes.NewReader(b), size); err != nil || got != want {
			t.Errorf("byte %d: %q %v", off, got, err)
		}
	}
}

func TestRequestAllocatesNothing(t *testing.T) {
	onDisk(t, tempDisk(t, 1<<20), 4, func(d *Disk, drive blk.Drive) {
		b, err := blk.Alloc(4096)
		if err != nil {
			t.Error(err)
			return
		}
		defer blk.Free(b)
		var w count
		r := &blk.Request{Op: blk.Write, Length: 4096, Buf: b, Owner: &w}
		if n := testing.AllocsPerRun(200, func() {
			want := w + 1
			for d.Submit(r); w < want; {
				if _, err := drive(); err != nil {
					t.Error(err)
				}
			}
		}); n != 0 {
			t.Errorf("%v allocations per request", n)
		}
	})
}

type count int

func (c *count) Complete(*blk.Request) { *c++ }
