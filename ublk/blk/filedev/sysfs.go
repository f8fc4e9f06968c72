package filedev

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
)

// sysDev is a block device's directory in sysfs, without symbolic links.
type sysDev string

// sysDir finds the directory of device number rdev; "" where sysfs does not have it.
func sysDir(rdev uint64) sysDev {
	// The links must be resolved: a partition's disk is the parent of what they lead to.
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev)))
	if err != nil {
		return ""
	}
	return sysDev(dir)
}

// describe fills in what only sysfs says.
func (d sysDev) describe(info *blk.Info) {
	if d == "" {
		// Nothing is known: assume the worst that is safe.
		info.VolatileCache = true
		return
	}
	disk, part := d.disk(), ""
	if n := d.attr("partition"); n != "" {
		part = "-part" + n
	}
	info.Rotational = disk.attr("queue/rotational") == "1"
	info.VolatileCache = disk.attr("queue/write_cache") != "write through"
	info.Zoned = disk.attr("queue/zoned") != "" && disk.attr("queue/zoned") != "none"
	// Zeroing is what the kernel does in both cases, with or without giving the space back; a
	// bare discard need not leave zeros.
	info.WriteZeroes = disk.positive("queue/write_zeroes_max_bytes")
	info.Discard = info.WriteZeroes && disk.positive("queue/discard_max_bytes")
	if id := disk.identity(); id != "" {
		info.Identity = id + part
	}
}

// disk is the whole disk of a partition, or d itself.
func (d sysDev) disk() sysDev {
	if d.attr("partition") != "" {
		return sysDev(filepath.Dir(string(d)))
	}
	return d
}

// identity is what stays the same when a disk is found under another name.
func (d sysDev) identity() string {
	for _, a := range []string{"wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid", "loop/backing_file"} {
		if v := strings.Join(strings.Fields(d.attr(a)), " "); v != "" {
			return v
		}
	}
	return ""
}

// attr reads one line of sysfs, "" where there is none.
func (d sysDev) attr(name string) string {
	b, err := os.ReadFile(filepath.Join(string(d), name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (d sysDev) positive(name string) bool {
	v := d.attr(name)
	return v != "" && v != "0"
}

// entries lists the names in a directory of d, in order.
func (d sysDev) entries(name string) []string {
	es, err := os.ReadDir(filepath.Join(string(d), name))
	if err != nil {
		return nil
	}
	out := make([]string, len(es))
	for i, e := range es {
		out[i] = e.Name()
	}
	return out
}
