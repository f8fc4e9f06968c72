package ublk

import (
	"errors"
	"fmt"
	"os"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// Queues are all hardware queues of a device on one loop. More than one spread the kernel's side, its
// tags and its locks, over CPUs; the state above them stays the loop's. Methods are the loop's.
type Queues struct {
	loop *uring.Loop
	f    *os.File // the char node
	list []*Queue
	left int // queues that the driver still serves

	// Ended is called once, when the driver has taken all tags of all queues back.
	Ended func()
}

// NewQueues opens the device's char node on loop and arms as many queues as the driver granted.
func NewQueues(loop *uring.Loop, d *Device, dev blk.Device) (*Queues, error) {
	f, err := d.openChar()
	if err != nil {
		return nil, fmt.Errorf("ublk device %d: %w", d.ID(), err)
	}
	s := &Queues{loop: loop, f: f}
	for qid := range d.info.nrHWQueues {
		q, err := newQueue(&ringPort{loop: loop, f: f, fd: int32(f.Fd()), qid: qid}, d, dev)
		if err != nil {
			// The driver has the tags of those that were armed: only the end of the ring gives them back.
			err = fmt.Errorf("ublk device %d: %w", d.ID(), err)
			if len(s.list) == 0 {
				err = errors.Join(err, f.Close())
			}
			return nil, err
		}
		q.Ended = s.ended
		s.list = append(s.list, q)
		s.left++
	}
	return s, nil
}

func (s *Queues) ended() {
	if s.left--; s.left == 0 && s.Ended != nil {
		s.Ended()
	}
}

// Kick commits what has completed since the last one.
func (s *Queues) Kick(now blk.Instant) {
	for _, q := range s.list {
		q.Kick(now)
	}
}

// Served counts each queue's requests.
func (s *Queues) Served() []uint64 {
	n := make([]uint64, len(s.list))
	for i, q := range s.list {
		n[i] = q.served
	}
	return n
}

// Counts sums up what all queues answered.
func (s *Queues) Counts() (c Counts) {
	for _, q := range s.list {
		for op := range blk.Ops {
			c.Requests[op] += q.counts.Requests[op]
			c.Failed[op] += q.counts.Failed[op]
			c.Bytes[op] += q.counts.Bytes[op]
		}
	}
	return c
}

// Err is why a queue broke, or nil.
func (s *Queues) Err() error {
	for _, q := range s.list {
		if q.broken != nil {
			return q.broken
		}
	}
	return nil
}

// Close gives char device, descriptors and buffers back; the driver must have ended all tags.
func (s *Queues) Close() error {
	var errs []error
	for _, q := range s.list {
		errs = append(errs, q.close())
	}
	return errors.Join(append(errs, s.f.Close())...)
}
