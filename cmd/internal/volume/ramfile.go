package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/dcd/seglog"
)

// ramFile is the memory of a volatile write cache: the log's RAM ring in a file on tmpfs, which a
// killed server leaves behind, and the next one replays. Its first page says whose it is,
// little-endian:
//
//	 0  magic "RBRAM1"     8  CRC32C of bytes 16 to 95     16  boot id (36 characters)
//	56  log UUID (16)     72  incarnation                  80  reserved (zeros to 96)
type ramFile struct {
	path string
	boot string
	mem  []byte // header page and ring
}

const (
	ramMagic = "RBRAM1\x00\x00"
	ramHead  = 4096
)

func ramPath(name string) string { return filepath.Join(control.RunDir(), name+".ram") }

// openRAM maps the memory file of a volume whose ring has that many bytes. replay is the
// incarnation that left segments in it; 0: the file is new, or not of this boot and this log.
func openRAM(name string, ring int64, log seglog.UUID) (f *ramFile, replay uint64, err error) {
	if err := os.MkdirAll(control.RunDir(), 0o700); err != nil {
		return nil, 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(control.RunDir(), &st); err != nil {
		return nil, 0, err
	}
	if int64(st.Type) != unix.TMPFS_MAGIC {
		return nil, 0, fmt.Errorf("--write-cache keeps its memory in %s, which must be a tmpfs: mount one there, or do without", control.RunDir())
	}
	f = &ramFile{path: ramPath(name)}
	if f.boot, err = bootID(); err != nil {
		return nil, 0, err
	}
	h, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer h.Close() // the mapping keeps it
	was, err := h.Stat()
	if err != nil {
		return nil, 0, err
	}
	// Written out in full: a page that cannot be had is found out now, not by a signal later.
	if err := unix.Fallocate(int(h.Fd()), 0, 0, ramHead+ring); err != nil {
		return nil, 0, fmt.Errorf("%s of memory for the write cache: %w", Bytes(ring), err)
	}
	if f.mem, err = unix.Mmap(int(h.Fd()), 0, int(ramHead+ring), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, 0, fmt.Errorf("map %s: %w", f.path, err)
	}
	unix.Mlock(f.mem) // best effort, as with all buffers
	if was.Size() == ramHead+ring {
		replay = f.incarnation(log)
	}
	return f, replay, nil
}

// ring is the memory for the log.
func (f *ramFile) ring() []byte { return f.mem[ramHead:] }

// incarnation is whose segments the file holds, 0 when its header does not fit.
func (f *ramFile) incarnation(log seglog.UUID) uint64 {
	h := f.mem[:ramHead]
	le := binary.LittleEndian
	if string(h[:8]) != ramMagic || le.Uint32(h[8:]) != ramSum(h) || string(h[16:52]) != f.boot || seglog.UUID(h[56:72]) != log {
		return 0
	}
	return le.Uint64(h[72:])
}

// claim says that from now on incarnation's segments lie here. What was replayed is durable by now.
func (f *ramFile) claim(log seglog.UUID, incarnation uint64) {
	h := f.mem[:ramHead]
	le := binary.LittleEndian
	clear(h)
	copy(h[16:52], f.boot)
	copy(h[56:72], log[:])
	le.PutUint64(h[72:], incarnation)
	le.PutUint32(h[8:], ramSum(h))
	copy(h, ramMagic)
}

func ramSum(h []byte) uint32 {
	return crc32.Checksum(h[16:96], crc32.MakeTable(crc32.Castagnoli))
}

// removeRAM takes a memory file away that nothing needs any more.
func removeRAM(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// bootID tells one boot of the machine from another.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	s := strings.TrimSpace(string(b))
	if err == nil && len(s) != 36 {
		err = fmt.Errorf("boot id %q", s)
	}
	return s, err
}
