package e2e

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
)

// Tree is a large tree of files to copy: Go's own sources, or a seeded one of that size.
type Tree struct{ dir string } // "": seeded

// Sums is what a copied tree must hold.
type Sums struct {
	Files, Bytes int
	sums         map[string]uint64
}

const (
	seededFiles = 7100
	seededBytes = 76 << 20
)

// SourceTree finds Go's sources: $ROBIB_TREE, else /usr/local/go/src; it falls back to a seeded tree.
func SourceTree() (Tree, error) {
	for _, d := range []string{os.Getenv("ROBIB_TREE"), "/usr/local/go/src"} {
		if st, err := os.Stat(filepath.Join(d, "net/http")); d != "" && err == nil && st.IsDir() {
			return Tree{d}, nil
		}
	}
	return Tree{}, nil
}

func (t Tree) String() string {
	if t.dir == "" {
		return "a seeded tree"
	}
	return "Go's own sources"
}

// Each calls f for every directory (contents nil, dir true) and file of the tree, parents first.
func (t Tree) Each(f func(rel string, dir bool, contents []byte) error) error {
	if t.dir == "" {
		return seeded(f)
	}
	return filepath.WalkDir(t.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.dir, p)
		if err != nil || rel == "." {
			return err
		}
		switch {
		case rel == "cmd":
			return fs.SkipDir
		case d.IsDir():
			return f(rel, true, nil)
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return f(rel, false, b)
		}
		return nil
	})
}

func seeded(f func(rel string, dir bool, contents []byte) error) error {
	r := rand.New(rand.NewPCG(1, 2))
	left := seededBytes
	buf := make([]byte, 64<<10)
	for i := range seededFiles {
		d := fmt.Sprintf("d%02d", i/100)
		if i%100 == 0 {
			if err := f(d, true, nil); err != nil {
				return err
			}
		}
		n := min(left, r.IntN(2*seededBytes/seededFiles))
		if left -= n; i == seededFiles-1 {
			n += left
		}
		for len(buf) < n {
			buf = make([]byte, 2*len(buf))
		}
		for k := 0; k < n; k += 8 {
			v := r.Uint64()
			for j := range 8 {
				buf[min(k+j, len(buf)-1)] = byte(v >> (8 * j))
			}
		}
		if err := f(filepath.Join(d, fmt.Sprintf("f%04d", i)), false, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// CopyTo writes the tree below dst, which must not exist, and syncs it.
func (t Tree) CopyTo(dst string) (Sums, error) {
	s := Sums{sums: map[string]uint64{}}
	if err := os.Mkdir(dst, 0o755); err != nil {
		return s, err
	}
	err := t.Each(func(rel string, dir bool, b []byte) error {
		p := filepath.Join(dst, rel)
		if dir {
			return os.Mkdir(p, 0o755)
		}
		s.Files++
		s.Bytes += len(b)
		s.sums[rel] = xxhash.Sum64(b)
		return os.WriteFile(p, b, 0o644)
	})
	if err != nil {
		return s, err
	}
	f, err := os.Open(dst)
	if err != nil {
		return s, err
	}
	defer f.Close()
	return s, syncFS(f)
}

// Compare checks that dir holds exactly the files and contents that were copied.
func (s Sums) Compare(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		want, ok := s.sums[rel]
		if !ok {
			return fmt.Errorf("%s was never copied", rel)
		}
		n++
		h := xxhash.New()
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		if h.Sum64() != want {
			return fmt.Errorf("%s: its checksum differs", rel)
		}
		return nil
	})
	if err == nil && n != s.Files {
		err = fmt.Errorf("%d files, want %d", n, s.Files)
	}
	return err
}
