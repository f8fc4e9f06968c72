//go:build giouring

package uring

import (
	"fmt"
	"syscall"
	"testing"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Every operation both have must fill the same 64 bytes. giouring does not link plainly with
// Go 1.23 and later: run with -tags giouring -ldflags=-checklinkname=0.
func TestEntriesEqualGiouring(t *testing.T) {
	mem := mmap(t, 4096)
	p, n := uintptr(unsafe.Pointer(&mem[0])), uint32(len(mem))
	msg := &unix.Msghdr{Iovlen: 1}
	ts := (*Timespec)(unsafe.Pointer(&mem[0]))
	rows := []struct {
		name   string
		ours   func(e *SQE)
		theirs func(e *giouring.SubmissionQueueEntry)
	}{
		{"nop", func(e *SQE) { e.PrepNop() }, func(e *giouring.SubmissionQueueEntry) { e.PrepareNop() }},
		{"read", func(e *SQE) { e.PrepRead(3, mem, 512) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareRead(3, p, n, 512) }},
		{"write", func(e *SQE) { e.PrepWrite(3, mem, 512) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareWrite(3, p, n, 512) }},
		{"read fixed", func(e *SQE) { e.PrepReadFixed(3, mem, 512, 2) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareReadFixed(3, p, n, 512, 2) }},
		{"write fixed", func(e *SQE) { e.PrepWriteFixed(3, mem, 512, 2) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareWriteFixed(3, p, n, 512, 2) }},
		{"fsync", func(e *SQE) { e.PrepFsync(3, FsyncDatasync) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareFsync(3, FsyncDatasync) }},
		{"fallocate", func(e *SQE) { e.PrepFallocate(3, 3, 512, 4096) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareFallocate(3, 3, 512, 4096) }},
		{"send", func(e *SQE) { e.PrepSend(3, mem, unix.MSG_NOSIGNAL) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareSend(3, p, n, unix.MSG_NOSIGNAL) }},
		{"recv", func(e *SQE) { e.PrepRecv(3, mem, 0) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareRecv(3, p, n, 0) }},
		{"sendmsg", func(e *SQE) { e.PrepSendmsg(3, msg, 1) }, func(e *giouring.SubmissionQueueEntry) {
			e.PrepareSendMsg(3, (*syscall.Msghdr)(unsafe.Pointer(msg)), 1)
		}},
		{"recvmsg", func(e *SQE) { e.PrepRecvmsg(3, msg, 1) }, func(e *giouring.SubmissionQueueEntry) {
			e.PrepareRecvMsg(3, (*syscall.Msghdr)(unsafe.Pointer(msg)), 1)
		}},
		// Theirs stores the address of its own parameter, so it never fires: Addr is compared with
		// the address it should have. Their PrepareTimeoutRemove takes a duration where the kernel wants an id: no row.
		{"timeout", func(e *SQE) { e.PrepTimeout(ts, 1, TimeoutAbs) }, func(e *giouring.SubmissionQueueEntry) {
			e.PrepareTimeout((*syscall.Timespec)(unsafe.Pointer(ts)), 1, TimeoutAbs)
			e.Addr = uint64(p)
		}},
		{"cancel", func(e *SQE) { e.PrepCancel(77, CancelAll) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareCancel64(77, CancelAll) }},
		{"cancel fd", func(e *SQE) { e.PrepCancelFD(3, CancelAll) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareCancelFd(3, CancelAll) }},
		{"poll", func(e *SQE) { e.PrepPollAdd(3, unix.POLLIN) }, func(e *giouring.SubmissionQueueEntry) { e.PreparePollAdd(3, unix.POLLIN) }},
		{"msg ring", func(e *SQE) { e.PrepMsgRing(3, 42, 99, 0) }, func(e *giouring.SubmissionQueueEntry) { e.PrepareMsgRing(3, 42, 99, 0) }},
	}
	for _, r := range rows {
		var a SQE
		var b giouring.SubmissionQueueEntry
		r.ours(&a)
		r.theirs(&b)
		x, y := unsafe.Slice((*byte)(unsafe.Pointer(&a)), 64), unsafe.Slice((*byte)(unsafe.Pointer(&b)), 64)
		if fmt.Sprintf("%x", x) != fmt.Sprintf("%x", y) {
			t.Errorf("%s:\n ours   %x\n theirs %x", r.name, x, y)
		}
	}
}
