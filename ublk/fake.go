package ublk

import (
	"encoding/binary"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Fake is the kernel's side of a queue in plain memory: it hands requests in and collects what
// was committed. It lets the whole stack above the driver be tested and measured without one.
type Fake struct {
	Queue *Queue
	Now   int64 // ns of CLOCK_MONOTONIC when Issue's requests are picked up

	free    []uint16
	armed   []bool
	results []int32
	pending []bool
	bufs    [][]byte // by tag: the address that came with the newest command
	Commits int
}

// NewFake makes a queue of depth tags over dev.
func NewFake(dev blk.Device, depth, maxIO int) (*Fake, error) {
	f := &Fake{armed: make([]bool, depth), results: make([]int32, depth), pending: make([]bool, depth), bufs: make([][]byte, depth), free: make([]uint16, 0, depth)}
	bufs, err := blk.Alloc(depth * maxIO)
	if err != nil {
		return nil, err
	}
	f.Queue = &Queue{dev: dev, port: f, size: dev.Info().SizeBytes, stride: descBytes, maxIO: maxIO, reqs: make([]blk.Request, depth),
		stamps: make([]blk.Stamps, depth), descs: make([]byte, depth*descBytes), bufs: bufs}
	f.Queue.arm()
	return f, nil
}

func (f *Fake) command(op uint32, tag uint16, result int32, buf []byte) {
	f.bufs[tag] = buf
	if op == ioCommit {
		f.Commits++
		f.results[tag], f.pending[tag] = result, false
	}
	f.armed[tag] = true
	f.free = append(f.free, tag)
}

// Free counts tags that may carry a request.
func (f *Fake) Free() int { return len(f.free) }

// Issue hands a request to the queue as the driver would; op and flags are the driver's. It
// gives the tag, and the buffer that a write's data must be in before.
func (f *Fake) Issue(op blk.Op, flags blk.Flags, off, n int64, fill func(buf []byte)) (tag int) {
	t := f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	f.armed[t], f.pending[t] = false, true
	d := f.Queue.descs[int(t)*descBytes:]
	of := uint32(op)
	if op == blk.WriteZeroes {
		of = opWriteZeroes
	}
	if flags&blk.FUA != 0 {
		of |= flagFUA
	}
	binary.LittleEndian.PutUint32(d, of)
	binary.LittleEndian.PutUint32(d[4:], uint32(n/blk.SectorBytes))
	binary.LittleEndian.PutUint64(d[8:], uint64(off/blk.SectorBytes))
	if fill != nil {
		fill(f.bufs[t][:n:cap(f.bufs[t])])
	}
	f.Queue.now.Mono = f.Now
	f.Queue.fetched(int(t), 0)
	return int(t)
}

// Result is what tag was committed with, and whether it was.
func (f *Fake) Result(tag int) (res int32, done bool) { return f.results[tag], !f.pending[tag] }

// Stamps are those of tag's request, the newest one.
func (f *Fake) Stamps(tag int) blk.Stamps { return f.Queue.stamps[tag] }

// Queues are the fake's one; without a loop, the batch's time is their clock.
func (f *Fake) Queues() *Queues { return &Queues{list: []*Queue{f.Queue}} }

// Close frees the buffers.
func (f *Fake) Close() error { return blk.Free(f.Queue.bufs) }
