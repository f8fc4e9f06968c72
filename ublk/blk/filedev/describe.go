package filedev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Describe reads what the kernel knows of an opened disk or file.
func Describe(f *os.File) (blk.Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return blk.Info{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return describeFile(f, &st), nil
	case unix.S_IFBLK:
		return describeBlock(f, &st)
	}
	return blk.Info{}, fmt.Errorf("%s is neither a block device nor a regular file", f.Name())
}

func describeFile(f *os.File, st *unix.Stat_t) blk.Info {
	info := blk.Info{SizeBytes: st.Size &^ 4095, LogicalBytes: 512, PhysicalBytes: 4096, Discard: true, WriteZeroes: true,
		VolatileCache: true, Identity: fmt.Sprintf("file:%x:%d", st.Dev, st.Ino)}
	// The file system's disk may need larger direct I/O than 512 bytes; Linux 6.1 says so.
	var x unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, statxDIOAlign, &x); err == nil && x.Mask&statxDIOAlign != 0 && x.Dio_offset_align > 512 {
		info.LogicalBytes = int32(x.Dio_offset_align)
	}
	return info
}

const statxDIOAlign = 0x2000 // STATX_DIOALIGN, linux/stat.h

func describeBlock(f *os.File, st *unix.Stat_t) (blk.Info, error) {
	fd := int(f.Fd())
	size, err := f.Seek(0, 2)
	if err != nil {
		return blk.Info{}, fmt.Errorf("%s: size: %w", f.Name(), err)
	}
	logical, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
	if err != nil {
		return blk.Info{}, fmt.Errorf("%s: block size: %w", f.Name(), err)
	}
	physical, err := unix.IoctlGetInt(fd, unix.BLKPBSZGET)
	if err != nil {
		return blk.Info{}, fmt.Errorf("%s: physical block size: %w", f.Name(), err)
	}
	ro, err := unix.IoctlGetInt(fd, unix.BLKROGET)
	if err != nil {
		return blk.Info{}, fmt.Errorf("%s: read-only flag: %w", f.Name(), err)
	}
	info := blk.Info{SizeBytes: size, LogicalBytes: int32(logical), PhysicalBytes: int32(physical), ReadOnly: ro != 0}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	part := ""
	if n := attr(dev, "partition"); n != "" {
		part = "-part" + n
		dev = filepath.Join(dev, "..")
	}
	info.Rotational = attr(dev, "queue/rotational") == "1"
	info.VolatileCache = attr(dev, "queue/write_cache") == "write back"
	info.Zoned = attr(dev, "queue/zoned") != "" && attr(dev, "queue/zoned") != "none"
	info.Discard = attr(dev, "queue/discard_max_bytes") != "" && attr(dev, "queue/discard_max_bytes") != "0"
	info.WriteZeroes = attr(dev, "queue/write_zeroes_max_bytes") != "" && attr(dev, "queue/write_zeroes_max_bytes") != "0"
	if id := identity(dev); id != "" {
		info.Identity = id + part
	}
	return info, nil
}

// identity is what stays the same when a disk is found under another name.
func identity(dev string) string {
	for _, a := range []string{"wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid", "loop/backing_file"} {
		if v := attr(dev, a); v != "" {
			return v
		}
	}
	return ""
}

// attr reads one line of sysfs, "" where there is none.
func attr(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// ErrInUse says that somebody else has the disk or file.
var ErrInUse = errors.New("in use")

// OpenExclusive opens a disk (O_EXCL) or file (locked) for direct I/O, so that neither a mount
// nor another server can have it at the same time.
func OpenExclusive(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR | unix.O_DIRECT
	block := st.Mode()&fs.ModeDevice != 0
	if block {
		flags |= unix.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s is %w%s", path, ErrInUse, holder(path))
	}
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) && block && os.Geteuid() == 0 {
		return nil, fmt.Errorf("%s is read-only: a volume must be able to write it", path)
	}
	if err != nil {
		return nil, err
	}
	if !block {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s is %w by another process that locked it", path, ErrInUse)
		}
	}
	return f, nil
}

// holder says who has a block device, as far as can be seen.
func holder(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	dev := strconv.Itoa(int(unix.Major(st.Rdev))) + ":" + strconv.Itoa(int(unix.Minor(st.Rdev)))
	sys := "/sys/dev/block/" + dev
	nodes := map[string]bool{dev: true}
	if d, err := os.ReadDir(sys); err == nil {
		for _, e := range d {
			if n := attr(filepath.Join(sys, e.Name()), "dev"); n != "" {
				nodes[n] = true
			}
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil {
		for l := range strings.SplitSeq(string(b), "\n") {
			if w := strings.Fields(l); len(w) > 4 && nodes[w[2]] {
				return ": it is mounted on " + w[4]
			}
		}
	}
	if d, err := os.ReadDir(sys + "/holders"); err == nil && len(d) > 0 {
		return ": it is held by " + d[0].Name()
	}
	return " (another program holds it)"
}
