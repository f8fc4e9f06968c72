package ublk

import "github.com/robib-ublk/robib/ublk/blk"

// Observer is told of each request that is about to be committed, all its stamps made. It is called on
// the loop for every request: it neither blocks nor keeps r.
type Observer func(queue int, r *blk.Request)

// Trace has each request's stamps written to what at gives for its queue and tag, memory of the
// caller's that stays until Trace(nil, nil) ends it. Every request begins with all of its stamps 0; those
// under way have none. With an observer, which may be nil, Committed is read from the clock, not the batch's time.
func (s *Queues) Trace(at func(queue, tag int) *blk.Stamps, done Observer) {
	for i, q := range s.list {
		q.trace(i, at, done)
		if done != nil && s.loop != nil {
			q.clock = s.loop.Now
		}
	}
}

func (q *Queue) trace(i int, at func(queue, tag int) *blk.Stamps, done Observer) {
	q.index, q.observe, q.clock = i, done, nil
	for tag := range q.reqs {
		q.reqs[tag].Stamps = nil
		if at != nil {
			q.reqs[tag].Stamps = at(i, tag)
		}
	}
}

// Traced gives each request that was picked up while it is traced, and is not committed, to f.
func (s *Queues) Traced(f Observer) {
	for i, q := range s.list {
		for tag := range q.reqs {
			if r := &q.reqs[tag]; r.Stamps != nil && r.Stamps[blk.Pickup] != 0 && r.Stamps[blk.Committed] == 0 {
				f(i, r)
			}
		}
	}
}

// Sources are the rings' names of the queues: bits 48 to 63 of the user data of their commands,
// whose lowest 16 bits are the tag.
func (s *Queues) Sources() []uint16 {
	ids := make([]uint16, len(s.list))
	for i, q := range s.list {
		ids[i] = uint16(q.ring.id >> 48)
	}
	return ids
}
