package dcd

import "unsafe"

// carve lays the index's three arrays into mem, which is page-aligned, outside the Go heap, and
// 9 n bytes long; they live as long as it does.
func carve(mem []byte, n int) (keys, bases []uint32, masks []uint8) {
	keys = unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), n)
	bases = unsafe.Slice((*uint32)(unsafe.Pointer(&mem[4*n])), n)
	return keys, bases, mem[8*n : 9*n]
}
