package e2e

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncFS writes back the file system that f lies on.
func syncFS(f *os.File) error { return unix.Syncfs(int(f.Fd())) }
