package latency

import (
	"errors"
	"sync"
	"time"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
)

// OwnNote is what a report says that comes from an Own.
const OwnNote = "the server's own stamps: what the kernel does before and after is not seen"

// Own is a block device that this process serves, counted by the server's own stamps: where probes
// cannot be attached. Its methods are any goroutine's but the loop's.
type Own struct {
	path  string
	since int64
	why   error // there are no probes
	loop  OnLoop

	count  *bpf.Own // the loop's
	stamps []blk.Stamps
	depth  int

	mu   sync.Mutex
	slow told
}

// FollowOwn counts the device at path, which this process serves, without probes; they cannot be attached
// because of why.
func FollowOwn(path string, queues, depth int, loop OnLoop, why error) (*Own, error) {
	o := &Own{path: path, since: mono(), why: why, loop: loop, count: bpf.NewOwn(), stamps: make([]blk.Stamps, queues*depth), depth: depth}
	return o, loop(func(q *ublk.Queues) {
		if q != nil {
			q.Trace(o.at, o.observe)
		}
	})
}

func (o *Own) at(queue, tag int) *blk.Stamps { return &o.stamps[queue*o.depth+tag] }

// observe is the device's ublk.Observer.
func (o *Own) observe(queue int, r *blk.Request) {
	if o.count.Record(bpf.Op(r.Op), r.Err != 0, (*[bpf.Stamps]int64)(r.Stamps)) {
		q := request(queue, r)
		q.Complete = r.Stamps[blk.Committed]
		o.count.Tell(q)
	}
}

// request is r as the reports have it: to the server it begins when it is picked up.
func request(queue int, r *blk.Request) bpf.Request {
	q := bpf.Request{Op: bpf.Op(r.Op), Sector: uint64(r.Offset / blk.SectorBytes), Bytes: uint32(r.Length), Start: r.Stamps[blk.Pickup],
		Stamps: [bpf.Stamps]int64(*r.Stamps), Queue: queue, Tag: int(r.Tag)}
	if r.Err != 0 {
		q.Status = ioError
	}
	return q
}

// ioError is the kernel's BLK_STS_IOERR.
const ioError = 10

// counted copies what was counted, operation by operation, so that the loop is not kept long.
func (o *Own) counted() (*bpf.Snapshot, error) {
	s := &bpf.Snapshot{}
	for op := range bpf.Ops {
		if err := o.loop(func(*ublk.Queues) {
			if o.count.Copy(op, s); op == bpf.Ops-1 {
				o.count.Sum(s)
			}
		}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Take reads everything.
func (o *Own) Take() (*Snapshot, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := mono()
	c, err := o.counted()
	if err != nil {
		return nil, err
	}
	s := &Snapshot{Device: o.path, AtNanos: now, Since: o.since, Hists: pack(c), Counts: c.Stats, counted: c, Probes: Unattached(o.why), Inflight: []Request{}, Note: OwnNote}
	var slow, waiting []bpf.Request
	if err := o.loop(func(q *ublk.Queues) {
		slow = o.count.Take(nil)
		s.Limit, s.Rate = o.count.Threshold()
		if q != nil {
			q.Traced(func(queue int, r *blk.Request) { waiting = append(waiting, request(queue, r)) })
		}
	}); err != nil {
		return nil, err
	}
	s.Outliers = o.slow.add(slow, now)
	s.Inflight = oldestFirst(waiting, max(now, mono()))
	return s, nil
}

// Count reads only what was counted, since begun.
func (o *Own) Count() (s *bpf.Snapshot, begun time.Time, err error) {
	s, err = o.counted()
	return s, time.Now().Add(-time.Duration(mono() - o.since)), err
}

// SetThreshold chooses outliers.
func (o *Own) SetThreshold(d time.Duration, rate int) error {
	return o.loop(func(*ublk.Queues) { o.count.SetThreshold(int64(d), rate) })
}

// Answer carries out Command.
func (o *Own) Answer(set map[string]string) (*Snapshot, error) { return answer(o, set) }

// Unfollow ends the counting. A loop that has ended counts nothing any more.
func (o *Own) Unfollow(loop OnLoop) error {
	loop(func(q *ublk.Queues) {
		if q != nil {
			q.Trace(nil, nil)
		}
	})
	return nil
}

// Without is why there are no probes.
func (o *Own) Without() error { return o.why }

// Close has nothing to close.
func (o *Own) Close() error { return nil }

// NotAttachedError says that not even the least of the probes could be attached: there is nothing wrong
// with the device that was asked about.
type NotAttachedError struct{ Err error }

func (e *NotAttachedError) Error() string { return e.Err.Error() }
func (e *NotAttachedError) Unwrap() error { return e.Err }

// Unattached tells of each probe why it is not there.
func Unattached(why error) []Probe {
	var no *NotAttachedError
	if errors.As(why, &no) {
		why = no.Err
	}
	return list(bpf.Unattached(why))
}
