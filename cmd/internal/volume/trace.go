package volume

import (
	"errors"
	"os"
	"sync"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
)

// tracing is the volume's latency probes while its device is there, or why there are none.
type tracing struct {
	mu     sync.Mutex // held while they are being attached, too
	tracer *latency.Tracer
	why    error
}

var (
	errNotTraced = errors.New("there is no block device")
	errProbesOff = errors.New("off: `robib-ublk set NAME latency=on` attaches the probes")
)

// trace attaches latency probes to dev, beside the server's work. Where that fails (no rights,
// say) the status tells why; it is never a reason not to serve.
func (s *Server) trace(dev *ublk.Device) {
	t := &s.tracing
	t.mu.Lock()
	if s.c.NoLatency {
		t.why = errProbesOff
		t.mu.Unlock()
		return
	}
	go func() {
		defer t.mu.Unlock()
		t.tracer, t.why = s.openTracer(dev)
	}()
}

func (s *Server) openTracer(dev *ublk.Device) (*latency.Tracer, error) {
	i, err := dev.Info()
	if err != nil {
		return nil, err
	}
	t, err := latency.Open(dev.Path(), i.Queues, i.Depth, bpf.Options{})
	if err != nil {
		return nil, err
	}
	slots := t.Device().Slots()
	var sources []uint16
	err = s.stack.call(func() {
		q := s.stack.queue
		if q == nil {
			return // taken down meanwhile
		}
		sources = q.Sources()
		q.Trace(func(queue, tag int) *blk.Stamps { return (*blk.Stamps)(slots.At(queue*slots.Depth + tag)) })
	})
	for q, ring := range sources {
		err = errors.Join(err, t.Device().AddSource(os.Getpid(), ring, q))
	}
	if err == nil {
		return t, nil
	}
	return nil, errors.Join(err, s.closeTracer(t))
}

// closeTracer takes the slots from the queue before their memory goes.
func (s *Server) closeTracer(t *latency.Tracer) error {
	if err := s.stack.call(func() {
		if s.stack.queue != nil {
			s.stack.queue.Trace(nil)
		}
	}); err != nil {
		return nil // the loop has ended, or is ending: memory that it may write to stays
	}
	return t.Close()
}

// untrace ends what trace began.
func (s *Server) untrace() error {
	t := &s.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.tracer != nil {
		err = s.closeTracer(t.tracer)
	}
	t.tracer, t.why = nil, nil
	return err
}

// latency answers the control command of that name.
func (s *Server) latency(set map[string]string) (any, error) {
	t := &s.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.tracer != nil:
		a, err := t.tracer.Answer(set)
		if err == nil {
			err = s.stack.call(func() { a.Network = s.stack.tcp() })
		}
		return a, err
	case t.why != nil:
		return nil, t.why
	}
	return nil, errNotTraced
}

// traced is what the status says: attached probes, or why not.
func (s *Server) traced() string {
	t := &s.tracing
	if !t.mu.TryLock() {
		return "being attached, or read"
	}
	defer t.mu.Unlock()
	switch {
	case t.tracer != nil:
		return "traced"
	case t.why != nil:
		return t.why.Error()
	}
	return ""
}
