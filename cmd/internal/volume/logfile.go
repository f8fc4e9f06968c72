package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of a log file that nobody sized.
const (
	defaultLogBytes = 1 << 30
	minLogBytes     = 16 << 20
	logAlign        = 1 << 20
)

// DefaultLogPath is the log of a volume for which none was named.
func DefaultLogPath(name string) string { return filepath.Join(State(), name+".log") }

// fileSystems on which a log file would not be durable, or would deadlock or allocate under
// memory pressure; magic numbers of statfs(2), include/uapi/linux/magic.h.
var refusedFS = map[int64]string{
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	0x2fc12fc1:                 "zfs",
	unix.NFS_SUPER_MAGIC:       "NFS",
	unix.FUSE_SUPER_MAGIC:      "FUSE",
	unix.SMB2_SUPER_MAGIC:      "SMB",
	unix.CIFS_SUPER_MAGIC:      "CIFS",
}

// checkLogDir refuses a directory whose file system cannot hold a log.
func checkLogDir(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("log directory %s: %w", dir, err)
	}
	if n, bad := refusedFS[int64(st.Type)]; bad {
		return fmt.Errorf("a log in %s would lie on %s, which does not keep it through a power cut or under memory pressure: name a place on ext4 or xfs, or a disk, with --log", dir, n)
	}
	return checkNotOnRobib(dir, "a log in "+dir)
}

// checkNotOnRobib refuses a path whose file system lies on a robib-ublk device: its I/O would wait for itself.
func checkNotOnRobib(path, what string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	major, err := ublkMajors()
	if err != nil {
		return err
	}
	if onUblk(unix.Major(dev), unix.Minor(dev), major) {
		return fmt.Errorf("%s would lie on a ublk device itself, whose I/O would then wait for its own: name another place", what)
	}
	return nil
}

// onUblk reports whether block device major:minor is, or is stacked upon, a ublk device.
func onUblk(major, minor uint32, ublk map[uint32]bool) bool {
	if ublk[major] {
		return true
	}
	base := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	if real, err := filepath.EvalSymlinks(base); err == nil && strings.Contains(filepath.Base(real), "ublkb") {
		return true
	}
	slaves, err := os.ReadDir(base + "/slaves")
	if err != nil {
		return false
	}
	for _, s := range slaves {
		b, err := os.ReadFile(filepath.Join(base, "slaves", s.Name(), "dev"))
		var ma, mi uint32
		if err == nil {
			if _, err := fmt.Sscanf(string(b), "%d:%d", &ma, &mi); err == nil && onUblk(ma, mi, ublk) {
				return true
			}
		}
	}
	return false
}

// ublkMajors reads the block majors that ublk has in /proc/devices.
func ublkMajors() (map[uint32]bool, error) {
	f, err := os.Open("/proc/devices")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[uint32]bool{}
	block := false
	for s := bufio.NewScanner(f); s.Scan(); {
		l := s.Text()
		if strings.HasPrefix(l, "Block devices") {
			block = true
		}
		var n uint32
		var name string
		if _, err := fmt.Sscanf(l, "%d %s", &n, &name); err == nil && block && strings.HasPrefix(name, "ublk") {
			out[n] = true
		}
	}
	return out, nil
}

// createLogFile makes path with size bytes of written zeros, so that appends neither allocate
// nor journal; size 0: min(1 GiB, 10 % of what is free). It refuses to replace anything.
func createLogFile(path string, size int64) (int64, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if err := checkLogDir(dir); err != nil {
		return 0, err
	}
	if size == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return 0, err
		}
		size = min(defaultLogBytes, int64(st.Bavail)*st.Bsize/10) / logAlign * logAlign
		if size < minLogBytes {
			return 0, fmt.Errorf("only %s free in %s: too little for a log (10 %% of it is taken, %s at least): name a place with --log, or a size with --log-size",
				Bytes(int64(st.Bavail)*st.Bsize), dir, Bytes(minLogBytes))
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%s exists: it is not touched", path)
	}
	if err != nil {
		return 0, err
	}
	err = zero(f, size)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
		return 0, fmt.Errorf("write %s of zeros to %s: %w", Bytes(size), path, err)
	}
	return size, nil
}

func zero(f *os.File, size int64) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		if _, err := f.WriteAt(b[:min(int64(len(b)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Bytes prints n in the binary unit a person would choose.
func Bytes(n int64) string {
	f, u := float64(n), 0
	for f >= 1024 && u < 5 {
		f, u = f/1024, u+1
	}
	unit := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[u]
	if f == float64(int64(f)) {
		return fmt.Sprintf("%d %s", int64(f), unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}
