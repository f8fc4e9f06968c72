package filedev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenExclusive opens a disk (O_EXCL) or file (locked) for direct I/O, so that neither a mount
// nor another server can have it at the same time. Whoever has it is named in the error (ErrInUse).
func OpenExclusive(path string) (*os.File, error) {
	// On a regular file the kernel ignores O_EXCL without O_CREAT.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
	if err != nil {
		return nil, refusal(path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		// Most drivers let a read-only disk be opened for writing.
		if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err != nil || ro != 0 {
			return nil, errors.Join(fmt.Errorf("%s is %w", path, ErrReadOnly), err, f.Close())
		}
		return f, nil
	case unix.S_IFREG:
	default:
		return nil, errors.Join(fmt.Errorf("%s is %w", path, ErrNotDisk), f.Close())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%s is %w: another process has locked it", path, ErrInUse), f.Close())
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: lock: %w", path, err), f.Close())
	}
	if by := fileHolder(st.Dev, st.Ino); by != "" {
		return nil, errors.Join(fmt.Errorf("%s is %w: %s", path, ErrInUse, by), f.Close())
	}
	return f, nil
}

// refusal says why path could not be opened.
func refusal(path string, err error) error {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return err
	}
	mode := st.Mode & unix.S_IFMT
	switch {
	case mode != unix.S_IFBLK && mode != unix.S_IFREG:
		return fmt.Errorf("%s is %w", path, ErrNotDisk)
	case errors.Is(err, unix.EBUSY) && mode == unix.S_IFBLK:
		return fmt.Errorf("%s is %w: %s", path, ErrInUse, holder(st.Rdev))
	case errors.Is(err, unix.ETXTBSY):
		return fmt.Errorf("%s is %w: it is swapped to or executed", path, ErrInUse)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES) && mode == unix.S_IFBLK && os.Geteuid() == 0:
		return fmt.Errorf("%s is %w", path, ErrReadOnly)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s is %w: its file system does not offer it", path, ErrNotDirect)
	}
	return err
}

// holder says who has a block device, its disk or one of its partitions, as far as can be seen.
func holder(rdev uint64) string {
	names := map[string]string{} // device number → name
	d := sysDir(rdev)
	if d == "" {
		return "another program holds it"
	}
	family := []sysDev{d}
	if d.disk() != d {
		family = append(family, d.disk())
	}
	for _, e := range d.entries("") {
		if p := sysDev(filepath.Join(string(d), e)); p.attr("partition") != "" {
			family = append(family, p)
		}
	}
	for _, m := range family {
		names[m.attr("dev")] = filepath.Base(string(m))
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		if s := mounted(string(b), names); s != "" {
			return s
		}
	}
	if s := swapped(names); s != "" {
		return s
	}
	for _, m := range family {
		if h := m.entries("holders"); len(h) > 0 {
			by := h[0]
			if n := sysDev("/sys/class/block/" + by).attr("dm/name"); n != "" {
				by += " (" + n + ")"
			}
			return fmt.Sprintf("%s is held by %s", filepath.Base(string(m)), by)
		}
	}
	return "another program holds it"
}

// mounted looks for one of the devices in the mount table, by number or, for file systems with
// numbers of their own, by source.
func mounted(table string, names map[string]string) string {
	for l := range strings.SplitSeq(table, "\n") {
		fields, rest, ok := strings.Cut(l, " - ")
		w, r := strings.Fields(fields), strings.Fields(rest)
		if !ok || len(w) < 5 || len(r) < 2 {
			continue
		}
		n, ok := names[w[2]]
		if !ok && strings.HasPrefix(r[1], "/") {
			n, ok = names[devNumber(unescape(r[1]))]
		}
		if ok {
			return fmt.Sprintf("%s is mounted on %s", n, unescape(w[4]))
		}
	}
	return ""
}

func swapped(names map[string]string) string {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return ""
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if w := strings.Fields(l); len(w) > 1 && strings.HasPrefix(w[0], "/") {
			if n, ok := names[devNumber(unescape(w[0]))]; ok {
				return n + " is swapped to"
			}
		}
	}
	return ""
}

// devNumber is the major:minor of a block device, "" for anything else.
func devNumber(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// fileHolder says who uses a file without a lock: a loop device.
func fileHolder(dev, ino uint64) string {
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return ""
	}
	for _, a := range all {
		b, err := os.ReadFile(a)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(strings.TrimSuffix(string(b), "\n"), &st) == nil && st.Dev == dev && st.Ino == ino {
			return filepath.Base(filepath.Dir(filepath.Dir(a))) + " is set up on it"
		}
	}
	return ""
}

// unescape undoes the octal escapes of /proc.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
