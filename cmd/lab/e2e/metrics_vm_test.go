//go:build vm

package e2e

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

const metricsAt = "127.0.0.1:9469"

// scrape gives a value of each series, by its text in front of it; nil when nobody answers.
func scrape() map[string]float64 {
	r, err := http.Get("http://" + metricsAt + "/metrics")
	if err != nil {
		return nil
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return nil
	}
	m := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		i := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[max(i, 0):]), 64); err == nil && line[0] != '#' {
			m[line[:i]] = v
		}
	}
	return m
}

// A mirrored volume's metrics tell what happens to it, also after its server was killed; an address
// that is taken keeps add from making a device, and set from changing anything.
func TestMetrics(t *testing.T) {
	withProbes(t)
	taken, err := net.Listen("tcp", metricsAt)
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, "async")
	refused(t, 1, "address already in use", "set", "p", "metrics="+metricsAt)
	robib(t, "stop", "p")
	refused(t, 1, "address already in use", "add", "--name", "p", "--metrics", metricsAt)
	if left, err := leftovers(); left != "" || err != nil {
		t.Error(left, err)
	}
	taken.Close()
	robib(t, "add", "--name", "p", "--metrics", metricsAt)
	inSync(t, "p")
	dev := stat(t, "p").Device
	is := func(series string, ok func(v float64) bool) func() bool {
		return func() bool { v, there := scrape()[series]; return there && ok(v) }
	}
	some := func(v float64) bool { return v > 0 }
	one := func(v float64) bool { return v == 1 }
	until(t, "probes", is(`robib_traced{volume="p"}`, one)) // they are attached beside the service
	fio(t, dev, "4k", 4)
	none := func(v float64) bool { return v == 0 }
	for series, ok := range map[string]func(float64) bool{
		`robib_requests_total{op="write",volume="p"}`:                             func(v float64) bool { return v >= 1024 },
		`robib_request_bytes_total{op="write",volume="p"}`:                        func(v float64) bool { return v >= 4<<20 },
		`robib_request_errors_total{op="write",volume="p"}`:                       none,
		`robib_peer_state{state="connected",volume="p"}`:                          one,
		`robib_role{role="primary",volume="p"}`:                                   one,
		`robib_log_bytes{volume="p"}`:                                             some,
		`robib_sent_bytes_total{volume="p"}`:                                      some,
		`robib_disk_lost{disk="log",volume="p"}`:                                  none,
		`robib_volume_state{state="in sync",volume="p"}`:                          one,
		`robib_traced{volume="p"}`:                                                one,
		`robib_tcp_round_trip_seconds{connection="data",volume="p"}`:              some,
		`robib_tcp_round_trip_seconds{connection="control",volume="p"}`:           some,
		`robib_log_watermark_ratio{volume="p",watermark="high"}`:                  some,
		`robib_request_duration_seconds_sum{op="write",stage="total",volume="p"}`: some,
	} {
		until(t, series, is(series, ok))
	}
	p.Link.Cut()
	run(t, "dd", "if=/dev/zero", "of="+dev, "bs=4k", "count=64", "oflag=direct")
	until(t, "the peer is lost", is(`robib_peer_state{state="lost",volume="p"}`, one))
	until(t, "a lag", is(`robib_lag_seconds{volume="p"}`, some))
	if m := scrape(); m[`robib_lag_bytes{volume="p"}`] <= 0 || m[`robib_degraded{volume="p"}`] != 1 {
		t.Errorf("%v", m)
	}
	p.Link.Restore()
	until(t, "no lag", is(`robib_lag_bytes{volume="p"}`, none))
	kill9(t, "p")
	until(t, "metrics of the next server", is(`robib_peer_state{state="connected",volume="p"}`, one))
	robib(t, "set", "p", "metrics=off")
	if scrape() != nil {
		t.Error("metrics are off, and there")
	}
	p.end()
}
