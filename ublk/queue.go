package ublk

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// port carries a tag's command to the driver: a ring, or a fake.
type port interface {
	// command hands tag over with op; buf is where a read's data lies, or where the next write's goes.
	command(op uint32, tag uint16, result int32, buf []byte)
}

// Queue is one hardware queue of a device: it turns descriptors into requests for dev and
// completions into commits. All its methods are the loop's.
type Queue struct {
	dev    blk.Device
	port   port
	size   int64
	stride int
	descs  []byte
	bufs   []byte
	own    [][]byte // by tag: its part of bufs, or the spare that a device put in its place
	maxIO  int

	reqs   []blk.Request
	stamps []blk.Stamps // of a fake; Trace gives others
	index  int          // of the queue, for observe
	clock  func() int64 // ns of CLOCK_MONOTONIC; nil: the batch's time will do
	done   blk.Queue
	now    blk.Instant
	gone   int // tags that the driver does not serve any more
	broken error
	served uint64 // requests
	counts Counts

	observe Observer // nil: nobody

	// Ended is called once, when the driver has taken all tags back.
	Ended func()

	ring *ringPort // nil with a fake
}

// Counts are those of requests that were answered, by blk.Op.
type Counts struct {
	Requests, Failed [blk.Ops]uint64
	Bytes            [blk.Ops]uint64 // asked for by those that did not fail
}

// newQueue maps hardware queue qid's descriptors and arms all its tags; d's char node is open as p.
func newQueue(p *ringPort, d *Device, dev blk.Device) (*Queue, error) {
	depth := int(d.info.queueDepth)
	q := &Queue{dev: dev, size: dev.Info().SizeBytes, stride: descBytes, maxIO: int(d.info.maxIOBufBytes), reqs: make([]blk.Request, depth)}
	if d.info.flags&FeatIODescSize != 0 && d.info.ioDescSize != 0 {
		q.stride = int(d.info.ioDescSize)
	}
	if err := q.open(p, depth); err != nil {
		return nil, errors.Join(err, q.release())
	}
	q.arm()
	return q, nil
}

func (q *Queue) open(p *ringPort, depth int) (err error) {
	n := (depth*q.stride + 4095) &^ 4095
	if q.descs, err = unix.Mmap(int(p.f.Fd()), descOffset(int(p.qid)), n, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("map the descriptors of queue %d: %w", p.qid, err)
	}
	if q.bufs, err = blk.Alloc(depth * q.maxIO); err != nil {
		return err
	}
	// Locked, so that a page-out of ours cannot wait for a write to our own device. Where the
	// limit forbids it the process set-up has said so.
	unix.Mlock(q.bufs)
	p.loop.RegisterBuffer(q.bufs) // best effort: the disks below need not look its pages up
	p.id = p.loop.Add(q)
	q.port, q.ring = p, p
	return nil
}

// arm gives every tag to the driver.
func (q *Queue) arm() {
	q.own = make([][]byte, len(q.reqs))
	for i := range q.reqs {
		q.own[i] = q.bufs[i*q.maxIO : (i+1)*q.maxIO : (i+1)*q.maxIO]
		r := &q.reqs[i]
		r.Tag, r.Owner = uint32(i), q
		if q.stamps != nil {
			r.Stamps = &q.stamps[i]
		}
		q.port.command(ioFetch, uint16(i), 0, q.buffer(i))
	}
}

func (q *Queue) buffer(tag int) []byte { return q.own[tag] }

// Handle takes a completed fetch: a request has come, or the tag is gone.
func (q *Queue) Handle(c uring.CQE, now int64) {
	q.now.Mono = now
	q.fetched(int(uint16(c.UserData)), c.Res)
}

func (q *Queue) fetched(tag int, res int32) {
	if res != 0 {
		if res != -int32(unix.ENODEV) && q.broken == nil {
			q.broken = fmt.Errorf("ublk: tag %d: %w", tag, syscall.Errno(-res))
		}
		if q.gone++; q.gone == len(q.reqs) && q.Ended != nil {
			q.Ended()
		}
		return
	}
	d := desc(q.descs, q.stride, tag)
	r := &q.reqs[tag]
	r.Offset, r.Length, r.Flags, r.Err = int64(d.startSector)*blk.SectorBytes, int64(d.nrSectors)*blk.SectorBytes, 0, 0
	if d.opFlags&flagFUA != 0 {
		r.Flags = blk.FUA
	}
	if r.Stamps != nil {
		*r.Stamps = blk.Stamps{}
	}
	r.Stamp(blk.Pickup, q.now)
	q.served++
	ok := true
	switch d.opFlags & 0xff {
	case opRead:
		r.Op = blk.Read
		ok = q.lend(r, tag)
	case opWrite:
		r.Op = blk.Write
		ok = q.lend(r, tag)
	case opFlush:
		r.Op, r.Offset, r.Length, r.Buf = blk.Flush, 0, 0, nil
	case opDiscard:
		r.Op, r.Buf = blk.Discard, nil
	case opWriteZeroes:
		r.Op, r.Buf = blk.WriteZeroes, nil
		if d.opFlags&flagNoUnmap != 0 {
			r.Flags |= blk.NoUnmap
		}
	default:
		r.Err = syscall.EOPNOTSUPP
		q.done.Push(r)
		return
	}
	if !ok || r.Offset+r.Length > q.size {
		r.Err = syscall.EIO
		q.done.Push(r)
		return
	}
	q.dev.Submit(r)
}

// lend gives r as much of its tag's buffer as it needs.
func (q *Queue) lend(r *blk.Request, tag int) bool {
	if r.Length > int64(q.maxIO) {
		return false
	}
	r.Buf = q.buffer(tag)[:r.Length]
	return true
}

// Complete records a request that is done; Kick commits it.
func (q *Queue) Complete(r *blk.Request) { q.done.Push(r) }

// Kick commits what has completed since the last one.
func (q *Queue) Kick(now blk.Instant) {
	if q.clock != nil && q.done.Head() != nil {
		now.Mono = q.clock()
	}
	for r := q.done.Pop(); r != nil; r = q.done.Pop() {
		r.Stamp(blk.Committed, now)
		if q.observe != nil && r.Stamps != nil {
			q.observe(q.index, r)
		}
		res := int32(0)
		if r.Replaced(q.own[r.Tag]) {
			// The device had to quarantine the buffer: its spare is the tag's from now on.
			q.own[r.Tag] = r.Buf[:q.maxIO:q.maxIO]
		}
		buf := q.buffer(int(r.Tag))
		switch {
		case r.Err != 0:
			res = -int32(r.Err)
			q.counts.Failed[r.Op]++
		case r.Op == blk.Read || r.Op == blk.Write:
			res = int32(r.Length)
		}
		q.counts.Requests[r.Op]++
		if r.Err == 0 {
			q.counts.Bytes[r.Op] += uint64(r.Length)
		}
		q.port.command(ioCommit, uint16(r.Tag), res, buf)
	}
}

// Live counts tags that the driver still serves.
func (q *Queue) Live() int { return len(q.reqs) - q.gone }

// close gives descriptors and buffers back; the driver must have ended all tags.
func (q *Queue) close() error {
	if n := q.Live(); n > 0 {
		return fmt.Errorf("ublk: queue closed while the driver still has %d tags", n)
	}
	q.ring.loop.Remove(q.ring.id)
	return errors.Join(q.ring.loop.UnregisterBuffer(q.bufs), q.release())
}

func (q *Queue) release() error {
	var errs []error
	if q.descs != nil {
		errs = append(errs, unix.Munmap(q.descs))
	}
	errs = append(errs, blk.Free(q.bufs))
	q.descs, q.bufs = nil, nil
	return errors.Join(errs...)
}

// ringPort is the real port.
type ringPort struct {
	loop *uring.Loop
	f    *os.File // the char node, of all queues
	fd   int32    // no slot of the ring's: a dead server's ring keeps those until its last I/O is back, and the driver lets nobody else in before
	qid  uint16
	id   uint64
}

func (p *ringPort) command(op uint32, tag uint16, result int32, buf []byte) {
	e := p.loop.Get()
	e.PrepURingCmd(p.fd, op)
	e.UserData = p.id | uint64(tag)
	putIO(p.loop.Ring().Cmd(e), p.qid, tag, result, buf)
}
