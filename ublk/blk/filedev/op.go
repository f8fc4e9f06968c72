package filedev

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// Modes of fallocate(2), linux/falloc.h.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// An operation that the kernel asks to try again is issued at once quickTries times, then every
// retryNanos; after maxTries without progress its error is the request's.
const (
	quickTries = 3
	retryNanos = 1_000_000
	maxTries   = 10_000
)

// op is one request on its way through the kernel, in as many steps as it takes.
type op struct {
	r         *blk.Request
	done      int64 // bytes of r finished
	step      int64 // bytes that are asked for now
	notBefore int64 // Mono time of the next try
	tries     int32 // without progress
	punched   bool  // this step asked for a hole, not for zeros
	syncing   bool  // all is done, what is left is to make it durable
}

// prep fills in the entry of o's next step. Zeroing: a block device's PUNCH_HOLE and ZERO_RANGE
// both leave zeros, the first may give the space back. The bare discard of a block device need
// not, so it is not used.
func (d *Disk) prep(e *uring.SQE, o *op) {
	r := o.r
	off := uint64(r.Offset + o.done)
	switch {
	case r.Op == blk.Flush || o.syncing:
		e.PrepFsync(d.fd, uring.FsyncDatasync)
	case r.Op == blk.Read:
		o.step = min(r.Length-o.done, d.transfer)
		e.PrepRead(d.fd, r.Buf[o.done:o.done+o.step], off)
	case r.Op == blk.Write:
		o.step = min(r.Length-o.done, d.transfer)
		e.PrepWrite(d.fd, r.Buf[o.done:o.done+o.step], off)
		if r.Flags&blk.FUA != 0 {
			e.OpFlags = uring.RWFDSync
		}
	default:
		o.step = min(r.Length-o.done, d.zero)
		o.punched = !d.noPunch && (r.Flags&blk.NoUnmap == 0 || d.noZero)
		mode := uint32(fallocKeepSize | fallocZeroRange)
		if o.punched {
			mode = fallocKeepSize | fallocPunchHole
		}
		e.PrepFallocate(d.fd, mode, off, uint64(o.step))
	}
}

// step takes the result of one step of o and reports whether another must follow.
func (d *Disk) step(o *op, res int32, now int64) (more bool) {
	r := o.r
	data := r.Op == blk.Read || r.Op == blk.Write
	switch {
	case res == -int32(unix.EAGAIN) || res == -int32(unix.EINTR):
		if o.tries++; o.tries > maxTries {
			r.Err = syscall.Errno(-res)
			return false
		}
		if o.tries > quickTries {
			o.notBefore = now + retryNanos
		}
		return true
	case res == -int32(unix.EOPNOTSUPP) && !data && !o.syncing && d.otherZeroing(o):
		return true
	case res < 0:
		r.Err = syscall.Errno(-res)
		return false
	case r.Op == blk.Flush || o.syncing:
		return false
	case data && (res == 0 || int64(res) > o.step || res%blk.SectorBytes != 0):
		// The end of a disk or file that shrank, or a write that made no way: never a success.
		r.Err = syscall.EIO
		return false
	case data:
		o.done += int64(res)
	default:
		o.done += o.step
	}
	o.tries, o.notBefore = 0, 0
	if o.done < r.Length {
		return true
	}
	o.syncing = !data && r.Flags&blk.FUA != 0
	return o.syncing
}

// otherZeroing remembers that the kernel cannot do what o asked for and reports whether the other
// way is left. A disk may say so at its first zeroing only, whatever sysfs says.
func (d *Disk) otherZeroing(o *op) bool {
	if o.punched {
		d.noPunch = true
		return !d.noZero
	}
	d.noZero = true
	return !d.noPunch
}
