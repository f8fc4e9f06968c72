package filedev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inUse checks that path is refused and that the reason names who has it.
func inUse(t *testing.T, path, by string) {
	t.Helper()
	f, err := OpenExclusive(path)
	if err == nil {
		f.Close()
	}
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), by) || !strings.Contains(err.Error(), path) {
		t.Errorf("%s: %v; it should name %q", path, err, by)
	}
}

func TestAFileIsOpenedOnce(t *testing.T) {
	f := openExclusive(t, tempPath(t, 1<<20))
	inUse(t, f.Name(), "locked")
	f.Close()
	openExclusive(t, f.Name())
}

func TestADiskIsOpenedOnce(t *testing.T) {
	path := tempPath(t, 1<<20)
	dev := loopDevice(t, path)
	inUse(t, path, filepath.Base(dev)+" is set up on it")
	f := openExclusive(t, dev)
	inUse(t, dev, "another program")
	f.Close()
	openExclusive(t, dev)
}

func TestAMountedDiskIsRefused(t *testing.T) {
	path := tempPath(t, 8<<20)
	run(t, "mkfs.ext4", "-q", path)
	dev := loopDevice(t, path)
	dir := filepath.Join(t.TempDir(), "a place")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	inUse(t, dev, filepath.Base(dev)+" is mounted on "+dir)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	openExclusive(t, dev)
}

func TestASwapDiskIsRefused(t *testing.T) {
	path := tempPath(t, 8<<20)
	run(t, "mkswap", path)
	dev := loopDevice(t, path)
	run(t, "swapon", dev)
	inUse(t, dev, "swapped to")
	run(t, "swapoff", dev)
	openExclusive(t, dev)
}

func TestWhatIsNoDiskIsRefused(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{t.TempDir(), "/dev/null", fifo} {
		if _, err := OpenExclusive(path); !errors.Is(err, ErrNotDisk) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := OpenExclusive(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestReadOnlyLoopIsRefused(t *testing.T) {
	dev := loopDevice(t, tempPath(t, 1<<20), "--read-only")
	if _, err := OpenExclusive(dev); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
}

// A file system with a device number of its own, as btrfs has, is found by its source; lines that
// make no sense are passed over.
func TestMountTable(t *testing.T) {
	dev := loopDevice(t, tempPath(t, 1<<20))
	names := map[string]string{devNumber(dev): "this"}
	junk := "\nnonsense\n1 2 - \n24 1 0:22 / /run rw - tmpfs tmpfs rw\n25 1 0:23 / /proc rw shared:5 - proc /proc rw\n"
	for table, want := range map[string]string{
		junk: "",
		junk + `30 1 0:41 /@home /home\040x rw,relatime shared:9 - btrfs ` + dev + ` rw,subvol=/@home`: "this is mounted on /home x",
		junk + "31 1 " + devNumber(dev) + " / /data rw - ext4 /dev/root rw\n" + junk:                   "this is mounted on /data",
	} {
		if got := mounted(table, names); got != want {
			t.Errorf("%q, should be %q", got, want)
		}
	}
}

// The mount table's escapes.
func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/mnt/a\040b`: "/mnt/a b", `/x\134y`: `/x\y`, `\04`: `\04`, `\999`: `\999`, `end\`: `end\`, "": ""} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
