package e2e

import (
	"os"
	"testing"
)

// Both trees copy and compare; a changed, a missing and an extra file are noticed.
func TestTree(t *testing.T) {
	n, bytes := 0, 0
	err := seeded(func(_ string, dir bool, b []byte) error {
		if !dir {
			n++
			bytes += len(b)
		}
		return nil
	})
	if err != nil || n != seededFiles || bytes != seededBytes {
		t.Fatal(n, bytes, err)
	}
	src := t.TempDir()
	for _, d := range []string{"/net/http", "/cmd"} {
		if err := os.MkdirAll(src+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"/a.go", "/net/http/b.go", "/cmd/left-out.go"} {
		if err := os.WriteFile(src+f, []byte("package "+f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("ROBIB_TREE", src)
	tree, err := SourceTree()
	if err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir() + "/copy"
	s, err := tree.CopyTo(dst)
	if err != nil || s.Files != 2 {
		t.Fatal(s, err)
	}
	if err := s.Compare(dst); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []func() error{
		func() error { return os.WriteFile(dst+"/extra", nil, 0o644) },
		func() error { os.Remove(dst + "/extra"); return os.WriteFile(dst+"/a.go", []byte("x"), 0o644) },
		func() error { return os.Remove(dst + "/a.go") },
	} {
		if err := bad(); err != nil {
			t.Fatal(err)
		}
		if s.Compare(dst) == nil {
			t.Error("a difference went unnoticed")
		}
	}
}
