package filedev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// RobibLog is what Signature calls a log device of ours.
const RobibLog = "a robib-ublk log"

// endBytes is how much of each end of a disk Signature and NonZero look at.
const endBytes = 1 << 20

// robibMagic begins our superblock (dcd/seglog).
const robibMagic = "ROBIBLOG"

const mdMember = "a member of an md array"

type sign struct {
	off   int64 // negative: from the end
	magic string
	what  string
}

// signs of what people keep on disks; the formats' own documents give the offsets. What wraps
// others comes before what it wraps, the boot sector's mark last: many formats have it too.
var signs = []sign{
	{0x1000, "\xfc\x4e\x2b\xa9", mdMember}, // 1.2
	{0, "\xfc\x4e\x2b\xa9", mdMember},      // 1.1
	{0, "LUKS\xba\xbe", "a LUKS container"},
	{0x4000, "SKUL\xba\xbe", "a LUKS container"}, // the second header, where the first is lost
	{0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"},
	{0x1018, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs file system"},
	{0x000, "LABELONE", "an LVM physical volume"},
	{0x200, "LABELONE", "an LVM physical volume"},
	{0x400, "LABELONE", "an LVM physical volume"},
	{0x600, "LABELONE", "an LVM physical volume"},
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an xfs file system"},
	{0x10040, "_BHRfS_M", "a btrfs file system"},
	{3, "NTFS    ", "an NTFS file system"},
	{3, "EXFAT   ", "an exFAT file system"},
	{0x36, "FAT1", "a FAT file system"},
	{0x36, "FAT     ", "a FAT file system"},
	{0x52, "FAT32", "a FAT file system"},
	{0x400, "\x10\x20\xf5\xf2", "an f2fs file system"},
	{0x10034, "ReIsEr", "a reiserfs file system"},
	{0x8000, "JFS1", "a JFS file system"},
	{0x8001, "CD001", "an ISO 9660 file system"},
	{0x8001, "BEA01", "a UDF file system"},
	{0, "hsqs", "a squashfs"},
	{0x400, "\xe2\xe1\xf5\xe0", "an erofs file system"},
	{0x200, "EFI PART", "a GPT partition table"},
	{0x1000, "EFI PART", "a GPT partition table"}, // blocks of 4 KiB
	{-0x200, "EFI PART", "a GPT partition table"}, // its copy, where the first is lost
	{-0x1000, "EFI PART", "a GPT partition table"},
	{0x1fe, "\x55\xaa", "a partition table or boot sector"},
}

// Signature looks for what a disk of size bytes holds, by the magic numbers in its first and
// last MiB. r must take reads of 4-KiB blocks into page-aligned memory, as O_DIRECT wants them.
func Signature(r io.ReaderAt, size int64) (what string, found bool, err error) {
	w, err := readEnds(r, size)
	if err != nil {
		return "", false, err
	}
	if w.is(0, robibMagic) {
		return RobibLog, true, nil
	}
	for _, look := range []func(*window) string{atTheEnd, swap, zfs, bySign} {
		if what = look(w); what != "" {
			return what, true, nil
		}
	}
	return "", false, nil
}

func bySign(w *window) string {
	for _, s := range signs {
		off := s.off
		if off < 0 {
			off += w.size
		}
		if w.is(off, s.magic) {
			return s.what
		}
	}
	return ""
}

// atTheEnd finds what keeps its only superblock behind the data, which looks like the disk of
// whatever that data is: md 0.90 in the last whole 64 KiB but one, 1.0 8 to 12 KiB before the
// end, DRBD in the last 4 KiB.
func atTheEnd(w *window) string {
	const md = "\xfc\x4e\x2b\xa9"
	old := w.size&^0xffff - 0x10000
	if w.is(old, md) || w.is(old, "\xa9\x2b\x4e\xfc") || w.is(w.size&^0xfff-0x2000, md) {
		return mdMember
	}
	for _, magic := range []string{"\x83\x74\x02\x6a", "\x83\x74\x02\x6b", "\x83\x74\x02\x6c", "\x83\x74\x02\x6d"} {
		if w.is(w.size&^0xfff-0x1000+60, magic) {
			return "a DRBD device"
		}
	}
	return ""
}

// swap marks the end of its first page, whatever that machine's page size was.
func swap(w *window) string {
	for page := int64(4096); page <= 65536; page *= 2 {
		for _, magic := range []string{"SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND\x00"} {
			if w.is(page-10, magic) {
				return "swap space"
			}
		}
	}
	return ""
}

// zfs keeps four labels of 256 KiB, two at each end; in the second half of each lie the
// uberblocks, on boundaries of 1 KiB, in the byte order of the machine that wrote them.
func zfs(w *window) string {
	const label, magic = 256 << 10, 0x00bab10c
	end := w.size / label * label
	for _, at := range []int64{0, label, end - 2*label, end - label} {
		for off := at + label/2; off < at+label; off += 1024 {
			b := w.at(off, 8)
			if b != nil && (binary.LittleEndian.Uint64(b) == magic || binary.BigEndian.Uint64(b) == magic) {
				return "a member of a ZFS pool"
			}
		}
	}
	return ""
}

// NonZero says which end of the disk, its first or last MiB, is not all zeros; "" if both are.
func NonZero(r io.ReaderAt, size int64) (where string, err error) {
	w, err := readEnds(r, size)
	if err != nil {
		return "", err
	}
	switch {
	case !blank(w.first):
		return "first MiB", nil
	case !blank(w.last):
		return "last MiB", nil
	}
	return "", nil
}

func blank(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	return len(bytes.Trim(b, "\x00")) == 0
}

// window is both ends of a disk; on a small one they overlap.
type window struct {
	first, last []byte
	size        int64
}

func (w *window) is(off int64, magic string) bool {
	b := w.at(off, len(magic))
	return b != nil && string(b) == magic
}

// at gives n bytes at off, nil where they are in neither end.
func (w *window) at(off int64, n int) []byte {
	from := w.size - int64(len(w.last))
	switch {
	case off < 0 || off > w.size-int64(n):
		return nil
	case off+int64(n) <= int64(len(w.first)):
		return w.first[off:][:n]
	case off >= from:
		return w.last[off-from:][:n]
	}
	return nil
}

// readEnds reads the first and last MiB into page-aligned memory, as O_DIRECT wants it.
func readEnds(r io.ReaderAt, size int64) (*window, error) {
	if size < 0 {
		return nil, errors.New("filedev: a negative size")
	}
	n := min(size, endBytes)
	// Each end begins on a page.
	mem := alignedBytes(2 * endBytes)
	w := &window{first: mem[:n], last: mem[endBytes : endBytes+n], size: size}
	if err := readFull(r, w.first, 0); err != nil {
		return nil, err
	}
	return w, readFull(r, w.last, size-n)
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	k, err := r.ReadAt(b, off)
	if k == len(b) {
		return nil // with or without io.EOF
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
