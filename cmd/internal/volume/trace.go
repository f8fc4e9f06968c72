package volume

import (
	"errors"
	"sync"

	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/ublk"
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
	if s.conf().NoLatency {
		t.why = errProbesOff
		t.mu.Unlock()
		return
	}
	go func() {
		defer t.mu.Unlock()
		t.tracer, t.why = latency.Follow(dev, s.onLoop)
	}()
}

// onLoop is the volume's latency.OnLoop.
func (s *Server) onLoop(f func(q *ublk.Queues)) error {
	return s.stack.call(func() { f(s.stack.queue) })
}

// untrace ends what trace began.
func (s *Server) untrace() error {
	t := &s.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.tracer != nil {
		err = t.tracer.Unfollow(s.onLoop)
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
			err = s.stack.call(func() { a.Network = s.stack.node.Sockets() })
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
