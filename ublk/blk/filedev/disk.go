package filedev

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// maxStep is the most one read or write asks of the kernel at once; longer ones go in steps.
const maxStep = 1 << 30

// Options of Open. The zero value is 128 operations in flight.
type Options struct {
	Depth int // operations in flight; more wait in order
}

// Disk is a block device or regular file, opened O_DIRECT, driven by one loop. Short reads and
// writes are finished; a write with FUA is RWF_DSYNC, a Flush is fdatasync(2).
type Disk struct {
	loop *uring.Loop
	id   uint64
	fd   int32 // fixed-file slot
	info blk.Info

	ops  []op
	free []uint32
	wait blk.Queue
}

type op struct {
	r    *blk.Request
	done int64 // bytes of r finished
}

// Open makes a device of f, which must stay open and whose owner closes it. Loop thread only.
func Open(l *uring.Loop, f *os.File, o Options) (*Disk, error) {
	info, err := Describe(f)
	if err != nil {
		return nil, err
	}
	if o.Depth == 0 {
		o.Depth = 128
	}
	slot, err := l.RegisterFile(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	d := &Disk{loop: l, fd: slot, info: info, ops: make([]op, o.Depth), free: make([]uint32, o.Depth)}
	for i := range d.free {
		d.free[i] = uint32(o.Depth - 1 - i)
	}
	d.id = l.Add(d)
	return d, nil
}

// Info describes the disk.
func (d *Disk) Info() blk.Info { return d.info }

// Submit starts r, or queues it when all operations are in flight.
func (d *Disk) Submit(r *blk.Request) {
	r.Err = 0
	if d.wait.Head() != nil || len(d.free) == 0 {
		d.wait.Push(r)
		return
	}
	d.start(r)
}

// Kick starts what waited for an operation to end.
func (d *Disk) Kick(blk.Instant) int64 {
	for len(d.free) > 0 && d.wait.Head() != nil {
		d.start(d.wait.Pop())
	}
	return blk.Never
}

// Close gives the slot back; the file stays its owner's.
func (d *Disk) Close() error {
	if len(d.free) != len(d.ops) || d.wait.Head() != nil {
		return fmt.Errorf("filedev: closed with %d operations in flight", len(d.ops)-len(d.free)+d.wait.Len())
	}
	d.loop.Remove(d.id)
	return d.loop.UnregisterFile(d.fd)
}

func (d *Disk) start(r *blk.Request) {
	i := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	d.ops[i] = op{r: r}
	d.issue(i)
}

// Modes of fallocate(2), linux/falloc.h.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// issue submits what is left of operation i.
func (d *Disk) issue(i uint32) {
	o := &d.ops[i]
	r := o.r
	e := d.loop.Get()
	switch r.Op {
	case blk.Read, blk.Write:
		b := r.Buf[o.done:r.Length]
		b = b[:min(len(b), maxStep)]
		if r.Op == blk.Read {
			e.PrepRead(d.fd, b, uint64(r.Offset+o.done))
		} else {
			e.PrepWrite(d.fd, b, uint64(r.Offset+o.done))
			if r.Flags&blk.FUA != 0 {
				e.OpFlags = uring.RWFDSync
			}
		}
	case blk.Flush:
		e.PrepFsync(d.fd, uring.FsyncDatasync)
	case blk.Discard:
		e.PrepFallocate(d.fd, fallocKeepSize|fallocPunchHole, uint64(r.Offset), uint64(r.Length))
	case blk.WriteZeroes:
		mode := uint32(fallocKeepSize | fallocPunchHole)
		if r.Flags&blk.NoUnmap != 0 {
			mode = fallocKeepSize | fallocZeroRange
		}
		e.PrepFallocate(d.fd, mode, uint64(r.Offset), uint64(r.Length))
	default:
		e.PrepNop()
		r.Err = syscall.EOPNOTSUPP
	}
	e.Flags |= uring.FixedFile
	if r.Err != 0 {
		e.Flags = 0
	}
	e.UserData = d.id | uint64(i)
}

// Handle takes one completion: it finishes the request, or goes on with what is left of it.
func (d *Disk) Handle(c uring.CQE, _ int64) {
	i := uint32(c.UserData)
	if d.ops[i].step(c.Res) {
		d.issue(i)
		return
	}
	r := d.ops[i].r
	d.ops[i].r = nil
	d.free = append(d.free, i)
	r.Owner.Complete(r)
}

// step takes the result of one kernel operation and reports whether another one must follow.
func (o *op) step(res int32) (more bool) {
	r := o.r
	switch {
	case res == -int32(unix.EAGAIN) || res == -int32(unix.EINTR):
		return true
	case res < 0:
		if r.Err == 0 {
			r.Err = syscall.Errno(-res)
		}
		return false
	case r.Op != blk.Read && r.Op != blk.Write:
		return false
	case res == 0:
		// The end of a disk that shrank, or a write that made no way: never a success.
		r.Err = syscall.EIO
		return false
	}
	o.done += int64(res)
	return o.done < r.Length
}
