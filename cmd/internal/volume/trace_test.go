package volume

import (
	"context"
	"errors"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/latency"
)

// Without probes the command says why, also while another command is under way; nothing else depends on them.
func TestWhyNotTraced(t *testing.T) {
	s := newServer(ServerOptions{Config: &Config{NoLatency: true}})
	s.trace(nil)
	if s.traced() != errProbesOff.Error() {
		t.Errorf("off, but %q", s.traced())
	}
	s = newServer(ServerOptions{Config: &Config{}})
	s.commit.Lock()
	ask := func() error {
		_, err := s.Do(context.Background(), latency.Command, control.Args{}, nil)
		return err
	}
	if err := ask(); !errors.Is(err, errNotTraced) || s.traced() != "" {
		t.Errorf("%v, %q", err, s.traced())
	}
	s.tracing.why = errors.New("not permitted")
	if err := ask(); err == nil || s.traced() != "not permitted" {
		t.Errorf("%v, %q", err, s.traced())
	}
	if err := s.untrace(); err != nil || s.traced() != "" {
		t.Errorf("%v, %q", err, s.traced())
	}
}
