package bpf

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const slotBytes = int(unsafe.Sizeof(latencySlot{}))

func mapSlots(fd, n int) ([]byte, error) {
	page := os.Getpagesize()
	mem, err := syscall.Mmap(fd, 0, (n*slotBytes+page-1)/page*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the slots: %w", err)
	}
	return mem, nil
}

func unmapSlots(mem []byte) error { return syscall.Munmap(mem) }

// Slots are a device's, one for each tag of each queue: slot = queue × depth + tag. The kernel
// clears a slot when its request is issued; from then on to the commit it is the server's. They
// are memory shared with the kernel, gone when the Probes are closed.
type Slots struct {
	mem   []byte
	Depth int // tags of a queue
}

// Len counts the slots.
func (s *Slots) Len() int { return len(s.mem) / slotBytes }

// At is a slot's stamps by Stamp, for the server's one thread to write in place.
func (s *Slots) At(slot int) *[Stamps]int64 {
	return (*[Stamps]int64)(unsafe.Pointer(&s.mem[slot*slotBytes : (slot+1)*slotBytes][0]))
}

// Stamp records that the request in slot passed what stands for at ns of CLOCK_MONOTONIC.
func (s *Slots) Stamp(slot int, what Stamp, ns int64) {
	atomic.StoreInt64(&s.At(slot)[what], ns)
}

// read gives what slot holds; io.Rq is 0 where no request has the tag, or has just got it.
func (s *Slots) read(slot int) (io latencyIo, stamps [Stamps]int64, posted int64) {
	at := (*latencySlot)(unsafe.Pointer(&s.mem[slot*slotBytes : (slot+1)*slotBytes][0]))
	rq, issue := atomic.LoadUint64(&at.Io.Rq), atomic.LoadUint64(&at.Io.Issue)
	io = at.Io
	for i := range stamps {
		stamps[i] = int64(atomic.LoadUint64(&at.Stamps[i]))
	}
	posted = int64(atomic.LoadUint64(&at.Posted))
	if io.Rq = rq; atomic.LoadUint64(&at.Io.Rq) != rq || atomic.LoadUint64(&at.Io.Issue) != issue {
		io.Rq = 0 // another one's now
	}
	return io, stamps, posted
}

// parseOutlier reads what the kernel put into the ring.
func parseOutlier(raw []byte) (o latencyOutlier, ok bool) {
	if len(raw) < int(unsafe.Sizeof(o)) {
		return o, false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&o)), unsafe.Sizeof(o)), raw)
	return o, true
}
