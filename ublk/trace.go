package ublk

import "github.com/robib-ublk/robib/ublk/blk"

// Trace has each request's stamps written to what at gives for its queue and tag, memory of the
// caller's that stays until Trace(nil) ends it. Every request begins with all of its stamps 0.
func (s *Queues) Trace(at func(queue, tag int) *blk.Stamps) {
	for i, q := range s.list {
		for tag := range q.reqs {
			q.reqs[tag].Stamps = nil
			if at != nil {
				q.reqs[tag].Stamps = at(i, tag)
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
