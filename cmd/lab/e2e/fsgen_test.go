package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// The generator must agree with a file system that is known to work, and notice one that lies.
func TestFSGen(t *testing.T) {
	for seed := range uint64(5) {
		dir := t.TempDir()
		g := NewFSGen(dir, seed)
		if err := g.Run(2000); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, op := range []string{"create", "write", "rename", "link", "truncate", "punch", "fsync", "mkdir", "unlink"} {
			if g.Ops[op] == 0 {
				t.Errorf("seed %d: %s never ran", seed, op)
			}
		}
		if err := g.Compare(dir); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		victim := ""
		for _, n := range g.names {
			if len(g.files[n].data) > 0 {
				victim = filepath.Join(dir, n)
				break
			}
		}
		b, err := os.ReadFile(victim)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(victim, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if g.Compare(dir) == nil {
			t.Fatalf("seed %d: a flipped bit in %s went unnoticed", seed, victim)
		}
	}
}
