package metrics

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
)

var update = flag.Bool("update", false, "write testdata anew")

// source gives what a test says; gate, if set, is waited for.
type source struct {
	s    *Sample
	err  error
	gate chan struct{}
}

func (s *source) Sample() (*Sample, error) {
	if s.gate != nil {
		<-s.gate
	}
	return s.s, s.err
}

// sample is a primary that is catching up after an outage.
func sample() *Sample {
	s := &Sample{HasPeer: true, DirtyBytes: 1 << 20, LogLost: true, Requests: &ublk.Counts{}, Latency: &bpf.Snapshot{}, Traced: time.Unix(1e9, 0)}
	s.Node = mirror.Status{Primary: true, State: mirror.StateCatchingUp, Connected: true, Sealed: 100, Durable: 99, Destaged: 50, Shipped: 90, Received: 80, RemoteDurable: 70,
		LagSegments: 30, CatchUp: mirror.CatchUp{BacklogBytes: 123456, BacklogNanos: 2.5e9}, RoundTripNanos: 4e5, SyncDone: 1 << 20, SyncTotal: 1 << 30, Resync: mirror.ResyncStats{Sent: 4096, Compared: 65536, Skipped: 61440}, SentBytes: 1000, RawBytes: 3000, Sessions: 2,
		Cache: dcd.Status{LogUsed: 1 << 28, LogBytes: 1 << 30, LowWater: 50, HighWater: 80, CommitNanos: 2e5}}
	s.Node.Cache.DestagedBytes, s.Node.Cache.ReadRAM, s.Node.Cache.Commits, s.Node.Cache.ZeroExtents, s.OldestSeconds = 12345, 6, 77, 2, 1.5
	s.Sockets = &wire.Sockets{Control: &wire.TCP{RTTNanos: 2e5, Window: 10},
		Data: &wire.TCP{RTTNanos: 212e3, RTTVarNanos: 30e3, MinRTTNanos: 18e4, Retransmits: 3, Lost: 1, Unacked: 12, Window: 20, SendQueueBytes: 65536, NotSentBytes: 4096, ReceiveQueueBytes: 7, DeliveryRate: 1 << 30}}
	s.Requests.Requests[blk.WriteZeroes], s.Requests.Failed[blk.Write], s.Requests.Bytes[blk.Read] = 5, 3, 4096
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		s.Latency.Hists[bpf.Write][bpf.StageTotal].Record(1e4 + r.Uint64N(1e6))
	}
	s.Latency.Hists[bpf.Write][bpf.StageLog].Record(0)
	end := time.Unix(1_800_000_000, 0)
	s.CertificateEnd = &end
	return s
}

func gather(t *testing.T, src Source) map[string]*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(NewCollector("v", src))
	list, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]*dto.MetricFamily{}
	for _, f := range list {
		m[f.GetName()] = f
	}
	return m
}

// The text that curl shows is what it was, and keeps Prometheus's conventions.
func TestText(t *testing.T) {
	c := NewCollector("v", &source{s: sample()})
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	s, err := Listen("127.0.0.1:0", "v", &source{s: sample()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	body := get(t, "http://"+s.Addr()+"/metrics", nil)
	var kept bytes.Buffer
	for line := range strings.Lines(body) {
		if strings.Contains(line, "robib_") && !strings.HasPrefix(line, "robib_build_info") { // the rest depends on who runs
			kept.WriteString(line)
		}
	}
	path := filepath.Join("testdata", "metrics.txt")
	if *update {
		if err := os.WriteFile(path, kept.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(kept.Bytes(), want) {
		t.Errorf("%s differs (go test ./cmd/internal/metrics -update):\n%s", path, kept.Bytes())
	}
	for _, name := range []string{"robib_build_info{", "process_resident_memory_bytes "} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
}

// Exactly one state of each enumeration holds, whatever the state.
func TestStates(t *testing.T) {
	for _, state := range mirror.StateList {
		for _, up := range []bool{true, false} {
			s := sample()
			s.Node.State, s.Node.Connected, s.HasPeer = state, up, state != mirror.StateAlone
			m := gather(t, &source{s: s})
			for _, name := range []string{"robib_volume_state", "robib_peer_state", "robib_role"} {
				on := 0.0
				for _, x := range m[name].GetMetric() {
					on += x.GetGauge().GetValue()
				}
				if on != 1 {
					t.Errorf("%s: %v of %s hold", state, on, name)
				}
			}
		}
	}
}

// Percentiles of the native histogram are close, count and sum exact; classic buckets are exact.
func TestHistograms(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var h bpf.Histogram
	var all []uint64
	for range 20000 {
		ns := uint64(math.Exp(r.Float64() * 27)) // up to 9 min
		all = append(all, ns)
		h.Record(ns)
	}
	h.Record(0)
	s := &Sample{Latency: &bpf.Snapshot{}}
	s.Latency.Hists[bpf.Read][bpf.StageTotal] = h
	d := gather(t, &source{s: s})["robib_request_duration_seconds"].GetMetric()[0].GetHistogram()
	if d.GetSampleCount() != 20001 || d.GetSampleSum() != float64(h.Sum)/1e9 || d.GetZeroCount() != 1 || d.GetSchema() != nativeSchema {
		t.Errorf("%d %v %d", d.GetSampleCount(), d.GetSampleSum(), d.GetZeroCount())
	}
	for _, b := range d.GetBucket() {
		end, n := uint64(math.Round(b.GetUpperBound()*1e9)), uint64(1)
		for _, ns := range all {
			if ns < end {
				n++
			}
		}
		if n != b.GetCumulativeCount() || end < 1<<10 {
			t.Errorf("%d below %d ns, want %d", b.GetCumulativeCount(), end, n)
		}
	}
	// Walk the native buckets beside what was recorded, both in order.
	bounds := nativeBuckets(d)
	var ranked bpf.Histogram
	for _, ns := range all {
		ranked.Record(ns)
	}
	seen := uint64(0)
	for _, b := range bounds {
		seen += b.count
		if b.count == 0 {
			continue
		}
		truth := float64(ranked.Percentile(float64(seen)*100/20000)) / 1e9
		if truth > 1e-8 && (b.high/truth > 1.13 || truth/b.high > 1.07) {
			t.Errorf("the %dth is %v s, its native bucket ends at %v", seen, truth, b.high)
		}
	}
	if seen != 20000 {
		t.Errorf("%d in native buckets", seen)
	}
}

type nativeBucket struct {
	high  float64
	count uint64
}

// nativeBuckets undoes the spans and deltas of the format.
func nativeBuckets(h *dto.Histogram) (list []nativeBucket) {
	i, n, k := int32(0), int64(0), 0
	for _, s := range h.GetPositiveSpan() {
		i += s.GetOffset()
		for range s.GetLength() {
			n += h.GetPositiveDelta()[k]
			list = append(list, nativeBucket{math.Exp2(float64(i) / (1 << nativeSchema)), uint64(n)})
			i, k = i+1, k+1
		}
	}
	return list
}

// What there is not is left out; a volume that does not answer fails the scrape.
func TestWhatIsNotThere(t *testing.T) {
	m := gather(t, &source{s: &Sample{}})
	for _, name := range []string{"robib_lag_bytes", "robib_requests_total", "robib_request_duration_seconds", "robib_sent_bytes_total"} {
		if m[name] != nil {
			t.Errorf("%s of a secondary without a peer", name)
		}
	}
	s, err := Listen("127.0.0.1:0", "v", &source{err: errors.New("the server is ending")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := http.Get("http://" + s.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusInternalServerError || !strings.Contains(string(b), "the server is ending") {
		t.Errorf("%d %s", r.StatusCode, b)
	}
}

func get(t *testing.T, url string, header http.Header) string {
	t.Helper()
	q, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header = header
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %v %s", url, r.StatusCode, err, b)
	}
	return string(b)
}

func TestServerAnswersNothingElse(t *testing.T) {
	s, err := Listen("127.0.0.1:0", "v", &source{s: sample()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, x := range []struct {
		method, path string
		code         int
	}{{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200}, {"GET", "/", 200}, {"HEAD", "/", 200}, {"POST", "/metrics", 405}, {"DELETE", "/", 405}, {"GET", "/debug/pprof/", 404}, {"GET", "/metrics/x", 404}} {
		q, err := http.NewRequest(x.method, "http://"+s.Addr()+x.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		if r.Body.Close(); r.StatusCode != x.code {
			t.Errorf("%s %s: %d, want %d", x.method, x.path, r.StatusCode, x.code)
		}
	}
	if got := get(t, "http://"+s.Addr()+"/", nil); !strings.Contains(got, `href="/metrics"`) {
		t.Error(got)
	}
	// Prometheus asks for protobuf, which alone carries native histograms.
	proto := get(t, "http://"+s.Addr()+"/metrics", http.Header{"Accept": {"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"}})
	if !strings.Contains(proto, "robib_request_duration_seconds") || strings.Contains(proto, "# TYPE") {
		t.Error("no protobuf")
	}
	if _, err := Listen(s.Addr(), "w", nil); err == nil || strings.Contains(err.Error(), "\n") || !regexp.MustCompile(`^metrics cannot be served on 127.0.0.1:\d+: address already in use: choose another address, or off$`).MatchString(err.Error()) {
		t.Error(err)
	}
	if err := Check(s.Addr()); err == nil {
		t.Error("an address that is in use was found good")
	}
}

// Connections beyond the limit are closed, those below it stay; scrapes that nobody answers are refused from the third on.
func TestServerIsBounded(t *testing.T) {
	src := &source{s: sample(), gate: make(chan struct{})}
	s, err := Listen("127.0.0.1:0", "v", src)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	ask := func(c net.Conn, path string) { fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path) }
	var conns []net.Conn
	for range maxConnections {
		c, r := dial()
		defer c.Close()
		ask(c, "/")
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatal(line, err)
		}
		conns = append(conns, c)
	}
	c, r := dial()
	ask(c, "/")
	if line, err := r.ReadString('\n'); err == nil {
		t.Errorf("one too many got %q", line)
	}
	c.Close()
	for _, c := range conns {
		c.Close()
	}
	// A closed one makes room; the server sees it in its own time.
	for {
		c, r := dial()
		ask(c, "/")
		_, err := r.ReadString('\n')
		c.Close()
		if err == nil {
			break
		}
	}
	answers := make(chan int, maxScrapes+1)
	for range maxScrapes + 1 {
		go func() {
			r, err := http.Get("http://" + s.Addr() + "/metrics")
			if err != nil {
				answers <- 0
				return
			}
			r.Body.Close()
			answers <- r.StatusCode
		}()
	}
	if code := <-answers; code != http.StatusServiceUnavailable { // the others wait
		t.Errorf("one scrape too many: %d", code)
	}
	close(src.gate)
	for range maxScrapes {
		if code := <-answers; code != http.StatusOK {
			t.Errorf("a scrape that had to wait: %d", code)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{"off": "", ":9469": ":9469", "127.0.0.1:1": "127.0.0.1:1", "[::1]:65535": "[::1]:65535", "host.example:80": "host.example:80"} {
		if got, err := ParseAddress(in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "on", "9469", "127.0.0.1", "a:0", "a:65536", "a:http", "::1:80", "http://a:80"} {
		if got, err := ParseAddress(bad); err == nil {
			t.Errorf("%q gave %q", bad, got)
		}
	}
}
