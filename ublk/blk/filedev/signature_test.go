package filedev

import (
	"bytes"
	"os"
	"testing"
)

func TestSignatures(t *testing.T) {
	const size = 4<<20 + 5*512
	rows := []struct {
		name  string
		off   int
		magic string
		what  string
	}{
		{"ext", 0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
		{"xfs", 0, "XFSB", "an xfs file system"},
		{"btrfs", 65536 + 64, "_BHRfS_M", "a btrfs file system"},
		{"vfat", 82, "FAT32   ", "a FAT file system"},
		{"fat16", 54, "FAT16   ", "a FAT file system"},
		{"ntfs", 3, "NTFS    ", "an NTFS file system"},
		{"swap", 4086, "SWAPSPACE2", "swap space"},
		{"swap of 64-KiB pages", 65526, "SWAPSPACE2", "swap space"},
		{"hibernated", 4086, "S1SUSPEND\x00", "swap space"},
		{"lvm", 512, "LABELONE", "an LVM physical volume"},
		{"md 0.90", 0x3f0000, "\xfc\x4e\x2b\xa9", mdMember},
		{"md 0.90 big-endian", 0x3f0000, "\xa9\x2b\x4e\xfc", mdMember},
		{"md 1.0", size&^4095 - 8192, "\xfc\x4e\x2b\xa9", mdMember},
		{"md 1.1", 0, "\xfc\x4e\x2b\xa9", mdMember},
		{"md 1.2", 4096, "\xfc\x4e\x2b\xa9", mdMember},
		{"luks", 0, "LUKS\xba\xbe", "a LUKS container"},
		{"luks2", 0x4000, "SKUL\xba\xbe", "a LUKS container"},
		{"gpt", 512, "EFI PART", "a GPT partition table"},
		{"gpt copy", size - 512, "EFI PART", "a GPT partition table"},
		{"mbr", 510, "\x55\xaa", "a partition table or boot sector"},
		{"drbd 8", size&^4095 - 4096 + 60, "\x83\x74\x02\x6b", "a DRBD device"},
		{"drbd 9", size&^4095 - 4096 + 60, "\x83\x74\x02\x6d", "a DRBD device"},
		{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"},
		{"zfs", 132 << 10, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "a member of a ZFS pool"},
		{"zfs big-endian", 512<<10 - 1024, "\x00\x00\x00\x00\x00\xba\xb1\x0c", "a member of a ZFS pool"},
		{"zfs last label", 4<<20 - 1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "a member of a ZFS pool"},
		{"ours", 0, "ROBIBLOG", RobibLog},
	}
	for _, row := range rows {
		b := make([]byte, size)
		copy(b[row.off:], row.magic)
		if what, found, err := Signature(bytes.NewReader(b), size); err != nil || !found || what != row.what {
			t.Errorf("%s: %q %v %v", row.name, what, found, err)
		}
	}
}

// What wraps a file system is named, not what it wraps; a log of ours before all.
func TestSignatureOrder(t *testing.T) {
	const size = 4 << 20
	b := make([]byte, size)
	put := func(off int, magic string) { copy(b[off:], magic) }
	for _, step := range []struct {
		off         int
		magic, want string
	}{
		{510, "\x55\xaa", "a partition table or boot sector"},
		{82, "FAT32   ", "a FAT file system"},
		{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
		{size - 8192, "\xfc\x4e\x2b\xa9", mdMember},
		{0, "ROBIBLOG", RobibLog},
	} {
		put(step.off, step.magic)
		if what, _, err := Signature(bytes.NewReader(b), size); err != nil || what != step.want {
			t.Errorf("%q %v, should be %q", what, err, step.want)
		}
	}
}

// What the real programs write is recognised, through direct I/O on a real device too.
func TestRealSignatures(t *testing.T) {
	for want, program := range map[string][]string{
		"an ext2, ext3 or ext4 file system": {"mkfs.ext4", "-q"},
		"swap space":                        {"mkswap"},
	} {
		path := tempPath(t, 8<<20)
		run(t, program[0], append(program[1:], path)...)
		f := openExclusive(t, path)
		if what, found, err := Signature(f, 8<<20); err != nil || !found || what != want {
			t.Errorf("%v: %q %v %v", program, what, found, err)
		}
		f.Close()
		d := openExclusive(t, loopDevice(t, path, "--sector-size", "4096"))
		if what, found, err := Signature(d, 8<<20); err != nil || !found || what != want {
			t.Errorf("%v on a disk of 4-KiB blocks: %q %v %v", program, what, found, err)
		}
		d.Close()
	}
}

func TestBlankAndNonZero(t *testing.T) {
	const size = 4 << 20
	b := make([]byte, size)
	if what, found, err := Signature(bytes.NewReader(b), size); found || err != nil {
		t.Error(what, err)
	}
	for off, want := range map[int]string{0: "first MiB", 100: "first MiB", 1<<20 - 1: "first MiB", 1 << 20: "", size / 2: "",
		size - 1<<20 - 1: "", size - 1<<20: "last MiB", size - 1: "last MiB"} {
		b[off] = 1
		if got, err := NonZero(bytes.NewReader(b), size); err != nil || got != want {
			t.Errorf("byte %d: %q %v", off, got, err)
		}
		b[off] = 0
	}
	if _, err := NonZero(bytes.NewReader(b), size+4096); err == nil {
		t.Error("a disk shorter than it says went unnoticed")
	}
	if _, _, err := Signature(bytes.NewReader(b), -1); err == nil {
		t.Error("a negative size")
	}
	gone, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	if _, _, err := Signature(gone, size); err == nil {
		t.Error("a read error went unnoticed")
	}
}

// Any bytes of any size: no panic, and zeros hold nothing.
func FuzzSignature(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte("ROBIBLOG"), uint16(9))
	f.Add(bytes.Repeat([]byte("LABELONE"), 200), uint16(4096))
	f.Fuzz(func(t *testing.T, data []byte, zeros uint16) {
		b := append(append([]byte(nil), data...), make([]byte, zeros)...)
		what, found, err := Signature(bytes.NewReader(b), int64(len(b)))
		if err != nil || found != (what != "") || found && blank(b) {
			t.Errorf("%q %v %v", what, found, err)
		}
		where, err := NonZero(bytes.NewReader(b), int64(len(b)))
		if err != nil || blank(b) != (where == "") && len(b) <= endBytes {
			t.Errorf("%q %v", where, err)
		}
	})
}
