package uring

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitArg is what EXT_ARG points to, outside the Go heap because the kernel reads its address.
type waitArg struct {
	arg getEventsArg
	ts  Timespec
}

func setup(entries uint32, p *params) (int, error) {
	// p is only read and written during the call.
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

// mapRings maps the two rings and the entries; pointers into them are valid until Close.
func (r *Ring) mapRings(p *params) (err error) {
	size := p.cqOff.cqes + p.cqEntries*uint32(unsafe.Sizeof(CQE{}))
	if r.flags&setupNoSQArray == 0 {
		size = max(size, p.sqOff.array+p.sqEntries*4)
	}
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.ringMem, err = unix.Mmap(r.fd, offSQRing, int(size), prot, flags); err != nil {
		return fmt.Errorf("io_uring: map the rings: %w", err)
	}
	if r.sqeMem, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries*r.step)*int(unsafe.Sizeof(SQE{})), prot, flags); err != nil {
		return fmt.Errorf("io_uring: map the entries: %w", err)
	}
	// Offsets come from the kernel and lie within the mapping made of its own sizes.
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.ringMem[off])) }
	r.sqHead, r.sqTail, r.sqFlag = at(p.sqOff.head), at(p.sqOff.tail), at(p.sqOff.flags)
	r.cqHead, r.cqTail, r.cqOver = at(p.cqOff.head), at(p.cqOff.tail), at(p.cqOff.overflow)
	r.sqMask, r.cqMask = *at(p.sqOff.ringMask), *at(p.cqOff.ringMask)
	r.sqes = unsafe.Slice((*SQE)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries*r.step)
	r.cqes = unsafe.Slice((*CQE)(unsafe.Pointer(&r.ringMem[p.cqOff.cqes])), p.cqEntries)
	if r.flags&setupNoSQArray == 0 {
		for i, a := range unsafe.Slice(at(p.sqOff.array), p.sqEntries) {
			_ = a
			*at(p.sqOff.array + uint32(i)*4) = uint32(i)
		}
	}
	if r.argMem, err = unix.Mmap(-1, 0, 4096, prot, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		return fmt.Errorf("io_uring: %w", err)
	}
	r.arg = (*waitArg)(unsafe.Pointer(&r.argMem[0]))
	r.arg.arg.ts = uint64(uintptr(unsafe.Pointer(&r.arg.ts)))
	return nil
}

func (r *Ring) rawEnter(n, wait uint32, flags uintptr, arg *waitArg, raw bool) (uintptr, unix.Errno) {
	fd := uintptr(r.fd)
	if r.regIdx >= 0 {
		fd, flags = uintptr(r.regIdx), flags|enterRegisteredRing
	}
	var p, size uintptr
	if arg != nil {
		// arg lies outside the Go heap and never moves.
		p, size = uintptr(unsafe.Pointer(&arg.arg)), unsafe.Sizeof(getEventsArg{})
	}
	if raw {
		got, _, e := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, fd, uintptr(n), uintptr(wait), flags, p, size)
		return got, e
	}
	got, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, uintptr(n), uintptr(wait), flags, p, size)
	return got, e
}

func (r *Ring) register(op uintptr, p unsafe.Pointer, n uintptr) (uintptr, error) {
	// What p points to is only used during the call.
	got, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(p), n, 0, 0)
	if e != 0 {
		return 0, e
	}
	return got, nil
}

// registerTables makes sparse tables of files and buffers that slots are filled into later.
func (r *Ring) registerTables(o Options) error {
	f := rsrcRegister{nr: o.Files, flags: rsrcSparse}
	if _, err := r.register(registerFiles2, unsafe.Pointer(&f), unsafe.Sizeof(f)); err != nil {
		return &FeatureError{"sparse file tables", "5.19", err}
	}
	r.files = make([]int32, o.Files)
	for i := range r.files {
		r.files[i] = -1
	}
	b := rsrcRegister{nr: o.Buffers, flags: rsrcSparse}
	if _, err := r.register(registerBuffers2, unsafe.Pointer(&b), unsafe.Sizeof(b)); err != nil {
		return &FeatureError{"sparse buffer tables", "5.19", err}
	}
	return nil
}

// registerRing spares the look-up of the descriptor at each enter. The index belongs to this
// thread; without it (too many, or an old kernel) the descriptor itself is used.
func (r *Ring) registerRing() {
	u := rsrcUpdate{offset: math32, data: uint64(r.fd)}
	if _, err := r.register(registerRingFDs, unsafe.Pointer(&u), 1); err == nil {
		r.regIdx = int(u.offset)
	}
}

const (
	math32            = 1<<32 - 1 // let the kernel choose the index
	unregisterRingFDs = 21
)

func (r *Ring) unregisterRing() error {
	if r.regIdx < 0 {
		return nil
	}
	u := rsrcUpdate{offset: uint32(r.regIdx)}
	_, err := r.register(unregisterRingFDs, unsafe.Pointer(&u), 1)
	r.regIdx = -1
	return err
}

// RegisterFile puts descriptor fd into a free slot of the fixed-file table. The ring holds its
// own reference: the caller may close fd. Slots end with UnregisterFile or the ring itself.
func (r *Ring) RegisterFile(fd int) (slot int32, err error) {
	for i, f := range r.files {
		if f == -1 {
			if err := r.setFile(i, int32(fd)); err != nil {
				return 0, fmt.Errorf("io_uring: register file: %w", err)
			}
			r.files[i] = int32(fd)
			return int32(i), nil
		}
	}
	return 0, fmt.Errorf("io_uring: all %d file slots are taken", len(r.files))
}

// UnregisterFile empties a slot; operations in flight on it keep the file until they end.
func (r *Ring) UnregisterFile(slot int32) error {
	if err := r.setFile(int(slot), -1); err != nil {
		return fmt.Errorf("io_uring: unregister file: %w", err)
	}
	r.files[slot] = -1
	return nil
}

func (r *Ring) setFile(slot int, fd int32) error {
	u := rsrcUpdate{offset: uint32(slot), data: uint64(uintptr(unsafe.Pointer(&fd)))}
	_, err := r.register(registerFilesUpdate, unsafe.Pointer(&u), 1)
	return err
}

// RegisterBuffer makes mem, outside the Go heap, usable by READ_FIXED and WRITE_FIXED.
func (r *Ring) RegisterBuffer(mem []byte) (index uint16, err error) {
	i := 0
	for i < len(r.regions) && r.regions[i] != (region{}) {
		i++
	}
	if i == r.bufCap {
		return 0, fmt.Errorf("io_uring: all %d buffer slots are taken", r.bufCap)
	}
	iov := unix.Iovec{Base: &mem[0], Len: uint64(len(mem))}
	if err := r.updateBuffer(i, &iov); err != nil {
		return 0, fmt.Errorf("io_uring: register %d bytes: %w", len(mem), err)
	}
	if i == len(r.regions) {
		r.regions = append(r.regions, region{})
	}
	at := uint64(uintptr(unsafe.Pointer(&mem[0])))
	r.regions[i] = region{at, at + uint64(len(mem))}
	return uint16(i), nil
}

// UnregisterBuffer empties the slot that holds mem, if there is one.
func (r *Ring) UnregisterBuffer(mem []byte) error {
	at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	for i, g := range r.regions {
		if g.from == at && len(mem) > 0 {
			r.regions[i] = region{}
			return r.updateBuffer(i, new(unix.Iovec))
		}
	}
	return nil
}

func (r *Ring) updateBuffer(i int, iov *unix.Iovec) error {
	var tag uint64
	u := struct { // struct io_uring_rsrc_update2
		offset, resv uint32
		data, tags   uint64
		nr, resv2    uint32
	}{offset: uint32(i), data: uint64(uintptr(unsafe.Pointer(iov))), tags: uint64(uintptr(unsafe.Pointer(&tag))), nr: 1}
	_, err := r.register(registerBufUpdate, unsafe.Pointer(&u), unsafe.Sizeof(u))
	return err
}

// Supports reports whether the kernel knows operation op.
func (r *Ring) Supports(op uint8) (bool, error) {
	var p probe
	if _, err := r.register(registerProbe, unsafe.Pointer(&p), uintptr(len(p.ops))); err != nil {
		return false, &FeatureError{"probing", "5.6", err}
	}
	return op <= p.lastOp && p.ops[op].flags&opSupported != 0, nil
}

// addr is a buffer's address as the kernel wants it. b lies outside the Go heap, or the caller
// keeps it alive until the completion.
func addr(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// Cmd is the command area of an URING_CMD entry: 16 bytes, or 80 on a ring with SQE128.
func (r *Ring) Cmd(e *SQE) []byte {
	n := uintptr(16)
	if r.step == 2 {
		n = 80
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&e.Addr3)), n)
}

// PrepTimeout arms a timeout after ts; ts must lie outside the Go heap until it fires.
func (e *SQE) PrepTimeout(ts *Timespec, count uint32, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.Off, e.OpFlags = OpTimeout, -1, uint64(uintptr(unsafe.Pointer(ts))), 1, uint64(count), flags
}

// PrepTimeoutUpdate gives the timeout with user data id a new time.
func (e *SQE) PrepTimeoutUpdate(ts *Timespec, id uint64, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.Off, e.OpFlags = OpTimeoutRemove, -1, id, uint64(uintptr(unsafe.Pointer(ts))), flags|1<<1
}

// PrepSendmsg sends msg, outside the Go heap like all it points to.
func (e *SQE) PrepSendmsg(fd int32, msg *unix.Msghdr, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.OpFlags = OpSendmsg, fd, uint64(uintptr(unsafe.Pointer(msg))), 1, flags
}

// PrepRecvmsg receives into msg, outside the Go heap like all it points to.
func (e *SQE) PrepRecvmsg(fd int32, msg *unix.Msghdr, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.OpFlags = OpRecvmsg, fd, uint64(uintptr(unsafe.Pointer(msg))), 1, flags
}

// timespecs maps room for n timespecs outside the Go heap.
func timespecs(n int) (mem []byte, ts []Timespec, err error) {
	mem, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	return mem, unsafe.Slice((*Timespec)(unsafe.Pointer(&mem[0])), n), nil
}
