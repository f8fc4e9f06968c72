package blktest

import "unsafe"

// aligned reports whether b starts on a 512-byte boundary.
func aligned(b []byte) bool {
	// Only the address is looked at.
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%512 == 0
}
