package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// archive writes an initramfs in cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w    *bufio.Writer
	ino  int
	n    int64
	dirs map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{".": true, "/": true}}
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

func (a *archive) write(b []byte) {
	if a.err == nil {
		var n int
		n, a.err = a.w.Write(b)
		a.n += int64(n)
	}
}

func (a *archive) pad() { a.write(make([]byte, (4-a.n%4)%4)) }

func (a *archive) entry(name string, mode uint32, size int64) {
	a.ino++
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
}

func (a *archive) dir(name string) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if name == "" || a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, modeDir|0o755, 0)
}

func (a *archive) bytes(name string, perm uint32, b []byte) {
	name = strings.TrimPrefix(name, "/")
	a.dir(path.Dir(name))
	a.entry(name, modeFile|perm, int64(len(b)))
	a.write(b)
	a.pad()
}

func (a *archive) link(name, target string) {
	name = strings.TrimPrefix(name, "/")
	a.dir(path.Dir(name))
	a.entry(name, modeLink|0o777, int64(len(target)))
	a.write([]byte(target))
	a.pad()
}

func (a *archive) file(name, from string, perm uint32) {
	b, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
		return
	}
	a.bytes(name, perm, b)
}

// tree copies a directory.
func (a *archive) tree(name, from string) {
	err := filepath.Walk(from, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch to := path.Join(name, rel); {
		case fi.IsDir():
			a.dir(to)
		case fi.Mode().IsRegular():
			a.file(to, p, uint32(fi.Mode().Perm()))
		}
		return a.err
	})
	if err != nil && a.err == nil {
		a.err = err
	}
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0)
	a.write(make([]byte, (512-a.n%512)%512)) // another archive may follow
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return a.err
}

// sorted gives a map's keys in order, so that the same input makes the same archive.
func sorted(m map[string]string) []string {
	var k []string
	for n := range m {
		k = append(k, n)
	}
	sort.Strings(k)
	return k
}
