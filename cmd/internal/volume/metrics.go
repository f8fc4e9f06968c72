package volume

import (
	"errors"
	"fmt"
	"sync"

	"github.com/robib-ublk/robib/cmd/internal/metrics"
)

// exporting is the volume's metrics server, or why there is none although one is wanted.
type exporting struct {
	mu     sync.Mutex
	server *metrics.Server
	why    error
}

// openMetrics begins to export before there is a device, so that an address that cannot be used
// keeps the volume from starting. A device that is there already matters more: it goes on without.
func (s *Server) openMetrics() error {
	if s.conf().Metrics == "" {
		return nil
	}
	srv, err := metrics.Listen(s.conf().Metrics, s.conf().Name, s)
	if err != nil && s.o.Reattach {
		s.o.Logf("%s: %v", s.conf().Name, err)
	} else if err != nil {
		return fmt.Errorf("%w with `robib-ublk set %s metrics=ADDR|off`", err, s.conf().Name)
	}
	s.exports.put(srv, err)
	return nil
}

// put makes srv, or why there is none, what the status tells, and gives back what was there.
func (e *exporting) put(srv *metrics.Server, why error) *metrics.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.server
	e.server, e.why = srv, why
	return old
}

// status is where metrics are, or why they are not.
func (e *exporting) status() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.server != nil:
		return "http://" + e.server.Addr() + "/metrics"
	case e.why != nil:
		return e.why.Error()
	}
	return ""
}

func (e *exporting) close() error {
	if old := e.put(nil, nil); old != nil {
		return old.Close()
	}
	return nil
}

// moveMetrics exports at addr, "" for nowhere, once keep has remembered it; when either fails all stays as it was.
func (s *Server) moveMetrics(addr string, keep func() error) error {
	e := &s.exports
	e.mu.Lock()
	same := addr == s.conf().Metrics && (addr == "") == (e.server == nil)
	e.mu.Unlock()
	if same {
		return keep()
	}
	var srv *metrics.Server
	if addr != "" {
		var err error
		if srv, err = metrics.Listen(addr, s.conf().Name, s); err != nil {
			return err
		}
	}
	if err := keep(); err != nil {
		if srv != nil {
			err = errors.Join(err, srv.Close())
		}
		return err
	}
	if old := e.put(srv, nil); old != nil {
		return old.Close()
	}
	return nil
}

// Sample asks the loop, and the latency probes.
func (s *Server) Sample() (*metrics.Sample, error) {
	m := &metrics.Sample{}
	var net *network
	if err := s.stack.call(func() {
		k := s.stack
		net = k.net
		m.Node, m.DirtyBytes, m.HasPeer, m.Sockets = k.node.Status(), k.cache.Dirty(), net != nil, k.node.Sockets()
		data, log := k.cache.Lost()
		m.DataLost, m.LogLost = data != nil || k.disk == nil, log != nil || k.log == nil
		if k.queue != nil {
			c := k.queue.Counts()
			m.Requests = &c
		}
	}); err != nil {
		return nil, err
	}
	m.CertificateEnd = net.certificateEnd()
	m.OldestSeconds = oldest(&m.Node.Cache, m.DirtyBytes)
	t := &s.tracing
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tracer == nil {
		return m, nil
	}
	var err error
	m.OwnStamps = t.tracer.Without() != nil
	m.Latency, m.Traced, err = t.tracer.Count()
	return m, err
}
