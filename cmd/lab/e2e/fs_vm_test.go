//go:build vm

package e2e

import (
	"os"
	"testing"
)

const mnt = "/mnt"

// ext4 and xfs: mkfs, Go's sources copied in, the operation generator, unmount, fsck, remount, compare.
func TestExt4(t *testing.T) { fileSystem(t, "ext4") }
func TestXFS(t *testing.T)  { fileSystem(t, "xfs") }

func fileSystem(t *testing.T, kind string) {
	p := newSyncedPair(t, "sync")
	force := "-F"
	if kind == "xfs" {
		force = "-f"
	}
	run(t, "mkfs."+kind, "-q", force, p.Dev)
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", kind, p.Dev, mnt)
	src, err := SourceTree()
	if err != nil {
		t.Fatal(err)
	}
	want, err := src.CopyTo(mnt + "/src")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("copied %d files, %d bytes from %s", want.Files, want.Bytes, src)
	if err := os.Mkdir(mnt+"/gen", 0o755); err != nil {
		t.Fatal(err)
	}
	g := NewFSGen(mnt+"/gen", 1)
	if err := g.Run(2000); err != nil {
		t.Fatal(err)
	}
	refused(t, 1, "is mounted on "+mnt, "stop", "p")
	refused(t, 1, "is mounted on "+mnt, "del", "p")
	run(t, "umount", mnt)
	if kind == "xfs" {
		run(t, "xfs_repair", "-n", p.Dev)
	} else {
		run(t, "e2fsck", "-f", "-n", p.Dev)
	}
	run(t, "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
	run(t, "mount", "-t", kind, p.Dev, mnt)
	verify(t, want, g)
	run(t, "umount", mnt)
	p.end()
	// The disk alone now holds everything; the other one is its equal.
	run(t, "mount", "-t", kind, dataB, mnt)
	verify(t, want, g)
	run(t, "umount", mnt)
}

func verify(t *testing.T, want Sums, g *FSGen) {
	t.Helper()
	if err := want.Compare(mnt + "/src"); err != nil {
		t.Fatal(err)
	}
	if err := g.Compare(mnt + "/gen"); err != nil {
		t.Fatal(err)
	}
}
