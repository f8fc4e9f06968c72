package blk

import (
	"fmt"
	"syscall"
)

// Alloc maps n bytes outside the Go heap, page-aligned, zeroed and populated: the kernel may
// hold their address, and no I/O path faults on them. Free them with Free.
func Alloc(n int) ([]byte, error) {
	n = (n + 4095) &^ 4095
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("blk: map %d bytes: %w", n, err)
	}
	return b, nil
}

// Free unmaps what Alloc returned.
func Free(b []byte) error {
	if b == nil {
		return nil
	}
	return syscall.Munmap(b)
}
