package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Who has a block device open is found among all processes, by the device and not by its name.
func TestWhoHasItOpen(t *testing.T) {
	dev := aBlockDevice(t)
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		t.Fatal(err)
	}
	nodes := map[string]string{fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)): "/dev/theirs"}
	proc := t.TempDir()
	fds := filepath.Join(proc, "4711", "fd")
	for _, err := range []error{os.MkdirAll(fds, 0o700), os.MkdirAll(filepath.Join(proc, "self", "fd"), 0o700), os.WriteFile(filepath.Join(proc, "4711", "comm"), []byte("qemu\n"), 0o600),
		os.Symlink("/dev/null", filepath.Join(fds, "0")), os.Symlink(proc, filepath.Join(fds, "1")), os.Symlink("/dev/gone", filepath.Join(fds, "2")), os.Symlink(dev, filepath.Join(proc, "self", "fd", "0"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s, err := openedFor(nodes, proc, 0); s != "" || err != nil {
		t.Errorf("not open: %q %v", s, err)
	}
	if err := os.Symlink(dev, filepath.Join(fds, "3")); err != nil {
		t.Fatal(err)
	}
	if s, err := openedFor(nodes, proc, 3*poll); s != "/dev/theirs is open in qemu (process 4711)" || err != nil {
		t.Errorf("%q %v", s, err)
	}
}

// aBlockDevice is the path of any.
func aBlockDevice(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob("/dev/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && !strings.Contains(p, "ublk") {
			return p
		}
	}
	t.Skip("there is no block device here")
	return ""
}
