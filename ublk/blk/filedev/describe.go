package filedev

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
)

const (
	statxDIOAlign = 0x2000     // STATX_DIOALIGN of linux/stat.h; x/sys has the fields only
	blkGetSize64  = 0x80081272 // BLKGETSIZE64 of linux/fs.h, the same on amd64 and arm64
)

// Describe reads what the kernel knows of an opened disk, partition or file. Discard and
// WriteZeroes are set only where the range reads zeros afterwards.
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
	return blk.Info{}, fmt.Errorf("%s is %w", f.Name(), ErrNotDisk)
}

func describeFile(f *os.File, st *unix.Stat_t) blk.Info {
	info := blk.Info{LogicalBytes: directAlign(f), Discard: true, WriteZeroes: true, VolatileCache: true,
		Identity: fmt.Sprintf("file:%x:%d", st.Dev, st.Ino)}
	info.PhysicalBytes = max(4096, info.LogicalBytes)
	info.SizeBytes = st.Size / int64(info.LogicalBytes) * int64(info.LogicalBytes)
	return info
}

// directAlign is what direct I/O on f must be aligned to, in memory and on disk, as far as the
// kernel says (since Linux 6.1); at least a sector.
func directAlign(f *os.File) int32 {
	var x unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, statxDIOAlign, &x)
	if err != nil || x.Mask&statxDIOAlign == 0 {
		return blk.SectorBytes
	}
	return int32(max(blk.SectorBytes, x.Dio_offset_align, x.Dio_mem_align))
}

func describeBlock(f *os.File, st *unix.Stat_t) (blk.Info, error) {
	get := func(what string, req uint) (n int, err error) {
		if n, err = unix.IoctlGetInt(int(f.Fd()), req); err != nil {
			err = fmt.Errorf("%s: %s: %w", f.Name(), what, err)
		}
		return n, err
	}
	size, err := get("size", blkGetSize64)
	if err != nil {
		return blk.Info{}, err
	}
	logical, err := get("block size", unix.BLKSSZGET)
	if err != nil {
		return blk.Info{}, err
	}
	physical, err := get("physical block size", unix.BLKPBSZGET)
	if err != nil {
		return blk.Info{}, err
	}
	ro, err := get("read-only flag", unix.BLKROGET)
	if err != nil {
		return blk.Info{}, err
	}
	info := blk.Info{SizeBytes: int64(size), LogicalBytes: max(int32(logical), directAlign(f)), ReadOnly: ro != 0}
	info.PhysicalBytes = max(int32(physical), info.LogicalBytes)
	info.SizeBytes -= info.SizeBytes % int64(info.LogicalBytes)
	sysDir(st.Rdev).describe(&info)
	return info, nil
}
