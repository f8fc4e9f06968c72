package filedev

import (
	"bytes"
	"errors"
	"io"
)

// RobibLog is what Signature calls a log device of ours.
const RobibLog = "a robib-ublk log"

// endBytes is how much of each end of a disk NonZero looks at.
const endBytes = 1 << 20

type sign struct {
	off   int64 // negative: from the end
	magic string
	what  string
}

// signatures of what people keep on disks; the formats' own documents give the offsets.
var signatures = []sign{
	{0, "ROBIBLOG", RobibLog},
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an xfs file system"},
	{0x10040, "_BHRfS_M", "a btrfs file system"},
	{3, "NTFS    ", "an NTFS file system"},
	{3, "EXFAT   ", "an exFAT file system"},
	{0x36, "FAT1", "a FAT file system"},
	{0x52, "FAT32", "a FAT file system"},
	{0xff6, "SWAPSPACE2", "swap space"},
	{0x200, "LABELONE", "an LVM physical volume"},
	{0x400, "LABELONE", "an LVM physical volume"},
	{0x600, "LABELONE", "an LVM physical volume"},
	{0, "LABELONE", "an LVM physical volume"},
	{0x1000, "\xfc\x4e\x2b\xa9", "a member of an md array"},
	{0, "\xfc\x4e\x2b\xa9", "a member of an md array"},
	{-0x10000, "\xfc\x4e\x2b\xa9", "a member of an md array"},
	{-0x2000, "\xfc\x4e\x2b\xa9", "a member of an md array"},
	{0, "LUKS\xba\xbe", "a LUKS container"},
	{0x200, "EFI PART", "a GPT partition table"},
	{0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"},
	{0x20000, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "a member of a ZFS pool"},
	{0x8001, "CD001", "an ISO 9660 file system"},
	{0, "hsqs", "a squashfs"},
	{0x1fe, "\x55\xaa", "a partition table or boot sector"},
}

// Signature looks for what a disk of size bytes holds, by its magic numbers.
func Signature(r io.ReaderAt, size int64) (what string, found bool, err error) {
	first, last, err := ends(r, size)
	if err != nil {
		return "", false, err
	}
	for _, s := range signatures {
		b, off := first, s.off
		if off < 0 {
			// md counts from a 4- or 64-KiB boundary of the size.
			b, off = last, int64(len(last))+off
		}
		if off >= 0 && off+int64(len(s.magic)) <= int64(len(b)) && bytes.Equal(b[off:off+int64(len(s.magic))], []byte(s.magic)) {
			return s.what, true, nil
		}
	}
	return "", false, nil
}

// NonZero says which end of the disk, its first or last MiB, is not all zeros; "" if both are.
func NonZero(r io.ReaderAt, size int64) (where string, err error) {
	first, last, err := ends(r, size)
	if err != nil {
		return "", err
	}
	for _, e := range []struct {
		b    []byte
		name string
	}{{first, "first MiB"}, {last, "last MiB"}} {
		if len(bytes.Trim(e.b, "\x00")) > 0 {
			return e.name, nil
		}
	}
	return "", nil
}

// ends reads the first and last MiB into page-aligned memory, as O_DIRECT wants it.
func ends(r io.ReaderAt, size int64) (first, last []byte, err error) {
	n := min(size, endBytes)
	mem := alignedBytes(int(2 * n))
	first, last = mem[:n], mem[n:2*n]
	for off, b := range map[int64][]byte{0: first, size - n: last} {
		if k, err := r.ReadAt(b, off); err != nil && !(errors.Is(err, io.EOF) && int64(k) == n) {
			return nil, nil, err
		}
	}
	return first, last, nil
}
