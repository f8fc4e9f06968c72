package volume

import (
	"errors"
	"fmt"
	"sync"

	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/ublk"
)

// tracing is the volume's latency probes while its device is there, or the server's own stamps where
// there can be none, or why there is neither.
type tracing struct {
	mu     sync.Mutex // held while they are being attached, too
	tracer latency.Followed
	why    error
}

var (
	errNotTraced = errors.New("there is no block device")
	errProbesOff = errors.New("off: `robib-ublk set NAME latency=on` attaches the probes")
)

// trace attaches latency probes to dev, beside the server's work. Where that fails (no rights,
// say) its own stamps are counted and the status tells why; it is never a reason not to serve.
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
		if tracer, err := latency.Follow(dev, s.onLoop); err == nil {
			t.tracer = tracer
		} else {
			t.own(dev, s.onLoop, err)
		}
	}()
}

// own counts by the server's own stamps, since there are no probes because of why.
func (t *tracing) own(dev *ublk.Device, loop latency.OnLoop, why error) {
	i, err := dev.Info()
	var own *latency.Own
	if err == nil {
		own, err = latency.FollowOwn(dev.Path(), i.Queues, i.Depth, loop, why)
	}
	if err != nil {
		t.why = errors.Join(why, err)
		return
	}
	t.tracer = own
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

// traced is what the status says: attached probes, the server's own stamps and why there is no more, or why nothing.
func (s *Server) traced() string {
	t := &s.tracing
	if !t.mu.TryLock() {
		return "being attached, or read"
	}
	defer t.mu.Unlock()
	switch {
	case t.tracer != nil && t.tracer.Without() != nil:
		return fmt.Sprintf("the server's own stamps: %v", t.tracer.Without())
	case t.tracer != nil:
		return "traced"
	case t.why != nil:
		return t.why.Error()
	}
	return ""
}
