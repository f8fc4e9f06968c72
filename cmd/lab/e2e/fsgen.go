package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"syscall"
)

const (
	genMaxFile  = 256 << 10 // bytes of one file
	genMaxFiles = 400
)

// inode is a file's contents; hard links share it.
type inode struct{ data []byte }

// FSGen applies seeded file operations to a directory and to a model of it in memory.
type FSGen struct {
	root  string
	rnd   *rand.Rand
	dirs  []string // relative, "" is the root
	files map[string]*inode
	names []string // keys of files, so that the seed alone decides
	next  int
	Ops   map[string]int // how often each operation ran
}

// NewFSGen generates below root, an empty directory.
func NewFSGen(root string, seed uint64) *FSGen {
	return &FSGen{root: root, rnd: rand.New(rand.NewPCG(seed, 7)), dirs: []string{""},
		files: map[string]*inode{}, Ops: map[string]int{}}
}

// Run applies n operations; the first that fails ends it.
func (g *FSGen) Run(n int) error {
	for range n {
		name, op := g.pick()
		if err := op(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		g.Ops[name]++
	}
	return nil
}

func (g *FSGen) pick() (string, func() error) {
	if len(g.names) == 0 {
		return "create", g.create
	}
	switch p := g.rnd.IntN(100); {
	case p < 15 && len(g.names) < genMaxFiles:
		return "create", g.create
	case p < 55:
		return "write", g.write
	case p < 62:
		return "rename", g.rename
	case p < 68 && len(g.names) < genMaxFiles:
		return "link", g.link
	case p < 76:
		return "truncate", g.truncate
	case p < 82:
		return "punch", g.punch
	case p < 92:
		return "fsync", g.fsync
	case p < 94 && len(g.dirs) < 40:
		return "mkdir", g.mkdir
	default:
		return "unlink", g.unlink
	}
}

func (g *FSGen) path(rel string) string { return filepath.Join(g.root, rel) }
func (g *FSGen) file() string           { return g.names[g.rnd.IntN(len(g.names))] }

func (g *FSGen) fresh(kind string) string {
	g.next++
	return filepath.Join(g.dirs[g.rnd.IntN(len(g.dirs))], fmt.Sprintf("%s%d", kind, g.next))
}

func (g *FSGen) put(name string, i *inode) {
	if _, ok := g.files[name]; !ok {
		g.names = append(g.names, name)
	}
	g.files[name] = i
}

func (g *FSGen) drop(name string) {
	delete(g.files, name)
	for i, n := range g.names {
		if n == name {
			g.names[i] = g.names[len(g.names)-1]
			g.names = g.names[:len(g.names)-1]
			return
		}
	}
}

func (g *FSGen) create() error {
	n := g.fresh("f")
	f, err := os.OpenFile(g.path(n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	g.put(n, &inode{})
	return f.Close()
}

func (g *FSGen) bytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := g.rnd.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

func (g *FSGen) write() error {
	n := g.file()
	i := g.files[n]
	off := g.rnd.IntN(genMaxFile / 2)
	b := g.bytes(1 + g.rnd.IntN(1<<(4+g.rnd.IntN(13))))
	b = b[:min(len(b), genMaxFile-off)]
	f, err := os.OpenFile(g.path(n), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, int64(off)); err == nil {
		i.data = grow(i.data, off+len(b))
		copy(i.data[off:], b)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func grow(b []byte, n int) []byte {
	if n > len(b) {
		b = append(b, make([]byte, n-len(b))...)
	}
	return b
}

func (g *FSGen) rename() error {
	from, to := g.file(), g.fresh("r")
	if g.rnd.IntN(3) == 0 {
		to = g.file() // over an existing one
	}
	if err := os.Rename(g.path(from), g.path(to)); err != nil {
		return err
	}
	i := g.files[from]
	if from == to || g.files[to] == i {
		return nil // rename(2): links to the same file stay both
	}
	g.drop(from)
	g.put(to, i)
	return nil
}

func (g *FSGen) link() error {
	from, to := g.file(), g.fresh("l")
	if err := os.Link(g.path(from), g.path(to)); err != nil {
		return err
	}
	g.put(to, g.files[from])
	return nil
}

func (g *FSGen) truncate() error {
	n := g.file()
	size := g.rnd.IntN(genMaxFile / 2)
	if err := os.Truncate(g.path(n), int64(size)); err != nil {
		return err
	}
	i := g.files[n]
	if size < len(i.data) {
		i.data = i.data[:size:size]
	} else {
		i.data = grow(i.data, size)
	}
	return nil
}

func (g *FSGen) punch() error {
	n := g.file()
	i := g.files[n]
	if len(i.data) == 0 {
		return nil
	}
	off := g.rnd.IntN(len(i.data))
	length := 1 + g.rnd.IntN(len(i.data)-off)
	f, err := os.OpenFile(g.path(n), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const keepSizePunch = 0x1 | 0x2 // FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
	if err := syscall.Fallocate(int(f.Fd()), keepSizePunch, int64(off), int64(length)); err != nil {
		return err
	}
	clear(i.data[off : off+length])
	return nil
}

func (g *FSGen) fsync() error {
	f, err := os.OpenFile(g.path(g.file()), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func (g *FSGen) mkdir() error {
	n := g.fresh("d")
	if err := os.Mkdir(g.path(n), 0o755); err != nil {
		return err
	}
	g.dirs = append(g.dirs, n)
	return nil
}

func (g *FSGen) unlink() error {
	n := g.file()
	if err := os.Remove(g.path(n)); err != nil {
		return err
	}
	g.drop(n)
	return nil
}

// Compare checks that root, perhaps another mount of the same file system, holds exactly the model.
func (g *FSGen) Compare(root string) error {
	var want, got []string
	want = append(want, g.dirs[1:]...)
	want = append(want, g.names...)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if rel == "lost+found" {
			return fs.SkipDir
		}
		if rel != "." {
			got = append(got, rel)
		}
		return err
	})
	if err != nil {
		return err
	}
	sort.Strings(want)
	sort.Strings(got)
	if w, h := fmt.Sprint(want), fmt.Sprint(got); w != h {
		return fmt.Errorf("the tree differs: %d names, want %d", len(got), len(want))
	}
	ino := map[*inode]uint64{}
	for _, n := range g.names {
		i := g.files[n]
		b, err := os.ReadFile(filepath.Join(root, n))
		if err != nil {
			return err
		}
		if !bytes.Equal(b, i.data) {
			return fmt.Errorf("%s: contents differ (%d bytes, want %d)", n, len(b), len(i.data))
		}
		st, err := os.Stat(filepath.Join(root, n))
		if err != nil {
			return err
		}
		num := st.Sys().(*syscall.Stat_t).Ino
		if old, ok := ino[i]; ok && old != num {
			return fmt.Errorf("%s: no longer a hard link of its file", n)
		}
		ino[i] = num
	}
	return nil
}
