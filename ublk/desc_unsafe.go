package ublk

import "unsafe"

// The kernel's sizes; a difference does not compile.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(ctrlCmd{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(devInfo{})-64]
	_ = [1]struct{}{}[unsafe.Sizeof(paramsBasic{})-32]
	_ = [1]struct{}{}[unsafe.Offsetof(params{}.discard)-40]
	_ = [1]struct{}{}[unsafe.Sizeof(ioDesc{})-descBytes]
	_ = [1]struct{}{}[unsafe.Sizeof(ioCmd{})-16]
)

// putCtrl writes a control command into an entry's command area; buf lies outside the Go heap.
func putCtrl(area []byte, c *ctrlCmd, buf []byte, n int) {
	if n > 0 {
		c.addr = uint64(uintptr(unsafe.Pointer(&buf[0])))
	}
	*(*ctrlCmd)(unsafe.Pointer(&area[0])) = *c
}

// putIO writes an I/O command into an entry's command area; buf is a page-aligned buffer outside the Go heap.
func putIO(area []byte, qid, tag uint16, result int32, buf []byte) {
	*(*ioCmd)(unsafe.Pointer(&area[0])) = ioCmd{qid: qid, tag: tag, result: result, addr: uint64(uintptr(unsafe.Pointer(&buf[0])))}
}

// desc reads tag's descriptor. The kernel writes it before the fetch completes and not again
// until the commit, so a plain read is enough. m is mapped, or a fake's, and long enough.
func desc(m []byte, stride, tag int) ioDesc {
	return *(*ioDesc)(unsafe.Pointer(&m[tag*stride]))
}

// infoOf reads a device info out of a command's buffer.
func infoOf(b []byte) (i devInfo) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&i)), unsafe.Sizeof(i)), b)
	return i
}

// bytesOf gives a copy of a struct's bytes.
func bytesOf[T any](v T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))...)
}
