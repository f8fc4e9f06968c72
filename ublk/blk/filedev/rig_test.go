package filedev

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// onDisk runs f on a device over file, on a loop of its own, and closes it.
func onDisk(t *testing.T, file *os.File, o Options, f func(d *Disk, drive blk.Drive)) {
	t.Helper()
	onLoop(t, func(l *uring.Loop, drive blk.Drive) {
		d, err := Open(l, file, o)
		if err != nil {
			t.Error(err)
			return
		}
		f(d, drive)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// onLoop runs f on a thread with a ring. It must not be t.Fatal that ends f.
func onLoop(t *testing.T, f func(l *uring.Loop, drive blk.Drive)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err := uring.NewLoop(uring.LoopOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		f(l, func() (blk.Instant, error) {
			now, err := l.Once(blk.Never)
			return blk.Instant{Mono: now}, err
		})
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	<-done
}

// tempPath makes a sparse file of size bytes.
func tempPath(t *testing.T, size int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, size); err != nil {
		t.Fatal(err)
	}
	return p
}

func openExclusive(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := OpenExclusive(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// run calls a program and gives what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loopDevice sets a loop device up on the file at path, with further options of losetup.
func loopDevice(t *testing.T, path string, opts ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	dev := run(t, "losetup", append(append([]string{"--find", "--show"}, opts...), path)...)
	t.Cleanup(func() { run(t, "losetup", "--detach", dev) })
	return dev
}

// memory gives n bytes that the kernel may write to.
func memory(t *testing.T, n int) []byte {
	t.Helper()
	b, err := blk.Alloc(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blk.Free(b) })
	return b
}
