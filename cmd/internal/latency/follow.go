package latency

import (
	"errors"
	"os"
	"time"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
)

// OnLoop runs f on the thread of a device's queues and waits for it; q is nil when they are gone. An
// error says that the thread has ended, or is ending, and f may not have run.
type OnLoop func(f func(q *ublk.Queues)) error

// Followed is a device that this process serves and counts the requests of: a Tracer, or an Own.
type Followed interface {
	Answer(set map[string]string) (*Snapshot, error)
	Count() (s *bpf.Snapshot, begun time.Time, err error)
	Without() error // why there are no probes, only the server's own stamps
	Unfollow(loop OnLoop) error
}

// Follow opens a Tracer on a device that this process serves: its queues stamp each request from now on.
func Follow(dev *ublk.Device, loop OnLoop) (*Tracer, error) {
	i, err := dev.Info()
	if err != nil {
		return nil, err
	}
	t, err := Open(dev.Path(), i.Queues, i.Depth, bpf.Options{})
	if err != nil {
		return nil, err
	}
	slots := t.Device().Slots()
	var sources []uint16
	err = loop(func(q *ublk.Queues) {
		if q == nil {
			return
		}
		sources = q.Sources()
		q.Trace(func(queue, tag int) *blk.Stamps { return (*blk.Stamps)(slots.At(queue*slots.Depth + tag)) }, nil)
	})
	for q, ring := range sources {
		err = errors.Join(err, t.Device().AddSource(os.Getpid(), ring, q))
	}
	if err == nil {
		return t, nil
	}
	return nil, errors.Join(err, t.Unfollow(loop))
}

// Unfollow takes the slots from the queues and closes t.
func (t *Tracer) Unfollow(loop OnLoop) error {
	if loop(func(q *ublk.Queues) {
		if q != nil {
			q.Trace(nil, nil)
		}
	}) != nil {
		return nil // memory that the loop may still write to stays
	}
	return t.Close()
}
