package filedev

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

const (
	defaultDepth = 128
	maxDepth     = 1 << 15
	// maxTransferBytes is the most that one read or write asks of the kernel, which does no more
	// than 2 GiB less a page; longer requests go in steps.
	maxTransferBytes = 1 << 30
	// maxZeroBytes is the most that is zeroed in one step: where the disk cannot do it itself the
	// kernel writes the zeros, and no step should take long.
	maxZeroBytes = 64 << 20
)

// Options of Open.
type Options struct {
	Depth    int  // operations in flight, more wait in order; 0: 128
	ReadOnly bool // nothing will be written: read-only and zoned disks are taken too
}

// Disk is a block device or regular file driven by one loop. Short reads and writes are
// finished; a write with FUA is RWF_DSYNC, a Flush is fdatasync(2), a Discard leaves zeros.
type Disk struct {
	loop *uring.Loop
	id   uint64
	fd   int32 // fixed-file slot
	info blk.Info

	ops   []op
	free  []uint32
	again []uint32 // operations to issue again, at the next kick
	wait  blk.Queue

	noPunch, noZero bool // the kernel said that it cannot
	transfer, zero  int64
}

// Open makes a device of f, which must be opened O_DIRECT unless it is only read, and which its
// owner closes after the device. Loop thread only.
func Open(l *uring.Loop, f *os.File, o Options) (*Disk, error) {
	info, err := Describe(f)
	if err != nil {
		return nil, err
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		o.ReadOnly = true
	}
	switch {
	case o.ReadOnly:
		info.ReadOnly, info.Discard, info.WriteZeroes = true, false, false
	case info.ReadOnly:
		return nil, fmt.Errorf("%s is %w", f.Name(), ErrReadOnly)
	case info.Zoned:
		return nil, fmt.Errorf("%s is %w", f.Name(), ErrZoned)
	case flags&unix.O_DIRECT == 0:
		return nil, fmt.Errorf("%s is %w: it was opened without O_DIRECT", f.Name(), ErrNotDirect)
	}
	if o.Depth == 0 {
		o.Depth = defaultDepth
	}
	if o.Depth < 0 || o.Depth > maxDepth {
		return nil, fmt.Errorf("filedev: a depth of %d is not within 1 to %d", o.Depth, maxDepth)
	}
	slot, err := l.RegisterFile(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	d := &Disk{loop: l, fd: slot, info: info, ops: make([]op, o.Depth), free: make([]uint32, o.Depth),
		again: make([]uint32, 0, o.Depth), transfer: maxTransferBytes, zero: maxZeroBytes}
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
	r.Err = d.refuse(r)
	switch {
	case r.Err != 0:
		r.Owner.Complete(r)
	case d.wait.Head() != nil || len(d.free) == 0:
		d.wait.Push(r)
	default:
		d.start(r)
	}
}

// refuse says what is wrong with a request that must not reach the kernel: a write past its end
// would make a file longer.
func (d *Disk) refuse(r *blk.Request) syscall.Errno {
	switch {
	case r.Op == blk.Flush:
		return 0
	case r.Op > blk.WriteZeroes:
		return syscall.EOPNOTSUPP
	case r.Op != blk.Read && d.info.ReadOnly:
		return syscall.EROFS
	case r.Op == blk.Discard && !d.info.Discard, r.Op == blk.WriteZeroes && !d.info.WriteZeroes:
		return syscall.EOPNOTSUPP
	case r.Length <= 0, r.Offset < 0, r.Length > d.info.SizeBytes, r.Offset > d.info.SizeBytes-r.Length:
		return syscall.EINVAL
	case (r.Offset|r.Length)%blk.SectorBytes != 0:
		return syscall.EINVAL
	}
	return 0
}

// Kick goes on with what has come back unfinished, and starts what waited for an operation to end.
func (d *Disk) Kick(now blk.Instant) (wake int64) {
	wake = blk.Never
	left := d.again[:0]
	for _, i := range d.again {
		if at := d.ops[i].notBefore; at > now.Mono {
			wake = min(wake, at)
			left = append(left, i)
			continue
		}
		d.issue(i)
	}
	d.again = left
	for len(d.free) > 0 && d.wait.Head() != nil {
		d.start(d.wait.Pop())
	}
	return wake
}

// Close gives the slot back; the file stays its owner's.
func (d *Disk) Close() error {
	if n := len(d.ops) - len(d.free) + d.wait.Len(); n > 0 {
		return fmt.Errorf("filedev: closed with %d operations in flight", n)
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

func (d *Disk) issue(i uint32) {
	e := d.loop.Get()
	d.prep(e, &d.ops[i])
	d.loop.UseFixed(e)
	e.Flags |= uring.FixedFile
	e.UserData = d.id | uint64(i)
}

// Handle takes one completion: it finishes the request, or leaves the rest of it to the next Kick.
func (d *Disk) Handle(c uring.CQE, now int64) {
	i := uint32(c.UserData)
	o := &d.ops[i]
	if d.step(o, c.Res, now) {
		d.again = append(d.again, i)
		return
	}
	r := o.r
	o.r = nil
	d.free = append(d.free, i)
	r.Owner.Complete(r)
}
