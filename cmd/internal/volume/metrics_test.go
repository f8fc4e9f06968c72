package volume

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
)

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func index(addr string) bool {
	r, err := http.Get("http://" + addr + "/")
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// An address that cannot be used, or not be remembered, leaves metrics where they are.
func TestMetricsMove(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	a, b := freeAddress(t), freeAddress(t)
	var logged []string
	s := newServer(ServerOptions{Config: &Config{Name: "v"}, Logf: func(f string, _ ...any) { logged = append(logged, f) }})
	move := func(addr string, fails error) error {
		return s.moveMetrics(addr, func() error {
			if fails == nil {
				s.config.Store(&Config{Name: "v", Metrics: addr})
			}
			return fails
		})
	}
	at := func(addr string) {
		t.Helper()
		want := ""
		if addr != "" {
			want = "http://" + addr + "/metrics"
		}
		if s.conf().Metrics != addr || s.exports.status() != want || addr != "" && !index(addr) {
			t.Errorf("configured %q, status %q, want %q", s.conf().Metrics, s.exports.status(), want)
		}
	}
	at("")
	if err := move(a, nil); err != nil {
		t.Fatal(err)
	}
	at(a)
	if err := move(taken.Addr().String(), nil); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Error(err)
	}
	at(a)
	full := errors.New("no space")
	if err := move(b, full); !errors.Is(err, full) || index(b) {
		t.Error(err)
	}
	at(a)
	if err := errors.Join(move(a, nil), move(b, nil)); err != nil || index(a) {
		t.Error(err)
	}
	at(b)
	if err := move("", nil); err != nil || index(b) {
		t.Error(err)
	}
	at("")

	// At the start it keeps the volume from starting, unless its device is there already.
	s.config.Store(&Config{Name: "v", Metrics: taken.Addr().String()})
	if err := s.openMetrics(); err == nil || !strings.Contains(err.Error(), "robib-ublk set v metrics=ADDR|off") || s.exports.status() != "" {
		t.Errorf("%v, %q", err, s.exports.status())
	}
	s.o.Reattach = true
	if err := s.openMetrics(); err != nil || len(logged) != 1 || !strings.Contains(s.exports.status(), "address already in use") {
		t.Errorf("%v, %q, %q", err, logged, s.exports.status())
	}
	taken.Close()
	if err := move(s.conf().Metrics, nil); err != nil {
		t.Error(err)
	}
	at(s.conf().Metrics)
	if err := s.exports.close(); err != nil || s.exports.status() != "" {
		t.Error(err)
	}
}

// What add is told to use is looked at before anything is remembered or made.
func TestMetricsAddressIsCheckedFirst(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr, off := taken.Addr().String(), ""
	c := &Config{Metrics: "x"}
	if _, err := (&Settings{Metrics: &addr}).apply(c); err == nil || c.Metrics != "x" {
		t.Errorf("%v, %q", err, c.Metrics)
	}
	if changed, err := (&Settings{Metrics: &off}).apply(c); err != nil || !changed || c.Metrics != "" {
		t.Errorf("%v, %v, %q", changed, err, c.Metrics)
	}
}
