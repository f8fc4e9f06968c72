package filedev

import "unsafe"

// alignedBytes gives n bytes on a page boundary of the Go heap, for a synchronous direct read.
func alignedBytes(n int) []byte {
	b := make([]byte, n+4096)
	// Only the address is looked at.
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 4095)
	return b[skip : skip+n : skip+n]
}
