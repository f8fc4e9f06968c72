package metrics

import (
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// States that robib_peer_state tells apart.
const (
	peerNone      = "none"
	peerConnected = "connected"
	peerLost      = "lost"
)

// plain are the metrics of one value each.
var plain = []struct {
	name, help string
	kind       prometheus.ValueType
	value      func(s *Sample) float64
	when       func(s *Sample) bool // nil: always
}{
	{"degraded", "1 while the volume is less safe than it is configured to be.", gauge, func(s *Sample) float64 { return one(s.Node.Degraded()) }, nil},
	{"inconsistent", "1 while this copy must not be promoted.", gauge, func(s *Sample) float64 { return one(s.Node.Inconsistent()) }, nil},
	{"term", "Number of the term that the volume is in; promote raises it.", gauge, func(s *Sample) float64 { return float64(s.Node.Term.Number) }, nil},

	{"lag_bytes", "What the peer lacks, at most: of the log, of what the dirty map says, and of a sync.", gauge, func(s *Sample) float64 { return float64(s.Node.CatchUp.BacklogBytes) }, leads},
	{"lag_segments", "Log segments that are not durable at the peer.", gauge, func(s *Sample) float64 { return float64(s.Node.LagSegments) }, leads},
	{"lag_seconds", "Age of the oldest write that is not durable at the peer.", gauge, func(s *Sample) float64 { return seconds(s.Node.CatchUp.BacklogNanos) }, leads},
	{"cannot_keep_up", "1 while writes come faster than the link and the peer take them.", gauge, func(s *Sample) float64 { return one(s.Node.CatchUp.CannotKeepUp) }, leads},
	{"peer_round_trip_seconds", "Of the last heartbeat.", gauge, func(s *Sample) float64 { return seconds(s.Node.RoundTripNanos) }, connected},
	{"certificate_expiry_timestamp_seconds", "When this machine's certificate by an authority ends, seconds since 1970; absent where keys are pinned.", gauge, func(s *Sample) float64 { return float64(s.CertificateEnd.Unix()) }, func(s *Sample) bool { return s.CertificateEnd != nil }},
	{"sessions_total", "Sessions with the peer that were begun.", counter, func(s *Sample) float64 { return float64(s.Node.Sessions) }, paired},
	{"sent_bytes_total", "Data sent to the peer, as it went.", counter, func(s *Sample) float64 { return float64(s.Node.SentBytes) }, paired},
	{"sent_raw_bytes_total", "Data sent to the peer before compression and without blocks of zeros left out.", counter, func(s *Sample) float64 { return float64(s.Node.RawBytes) }, paired},
	{"elided_zero_bytes_total", "Zeros that did not have to be sent.", counter, func(s *Sample) float64 { return float64(s.Node.Pack.ElidedBytes) }, paired},
	{"resync_done_bytes", "How far the full or map sync under way is; 0 when there is none.", gauge, func(s *Sample) float64 { return float64(s.Node.SyncDone) }, leads},
	{"resync_size_bytes", "Where the full or map sync under way ends; 0 when there is none.", gauge, func(s *Sample) float64 { return float64(s.Node.SyncTotal) }, leads},
	{"resync_sent_bytes_total", "Blocks that full and map syncs sent to the peer, before compression.", counter, func(s *Sample) float64 { return float64(s.Node.Resync.Sent) }, leads},
	{"resync_compared_bytes_total", "Blocks that they compared with the peer's by hash.", counter, func(s *Sample) float64 { return float64(s.Node.Resync.Compared) }, leads},
	{"resync_skipped_bytes_total", "What of them was equal, and so was not sent.", counter, func(s *Sample) float64 { return float64(s.Node.Resync.Skipped) }, leads},

	{"refill_done_bytes", "How far a new data disk is filled; 0 when none is being filled.", gauge, func(s *Sample) float64 { return float64(s.Node.RefillDone) }, leads},
	{"refill_size_bytes", "Where the refill under way ends; 0 when there is none.", gauge, func(s *Sample) float64 { return float64(s.Node.RefillTotal) }, leads},

	{"log_bytes", "Space for segments on the log device.", gauge, func(s *Sample) float64 { return float64(s.Node.Cache.LogBytes) }, nil},
	{"log_used_bytes", "What is occupied of it.", gauge, func(s *Sample) float64 { return float64(s.Node.Cache.LogUsed) }, nil},
	{"log_append_seconds", "What a durable append takes, a moving average.", gauge, func(s *Sample) float64 { return seconds(s.Node.Cache.CommitNanos) }, nil},
	{"commits_total", "Group commits: segments that took writes, discards or zeros of the volume's users.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.Commits) }, nil},
	{"log_appends_total", "Appends to the log device.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.Appends) }, nil},
	{"log_appended_bytes_total", "Bytes appended to the log device.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.AppendedBytes) }, nil},
	{"log_read_bytes_total", "Bytes read back from the log device because RAM had them no more.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.LogReadBytes) }, nil},
	{"dirty_bytes", "What the data disk lacks, at most.", gauge, func(s *Sample) float64 { return float64(s.DirtyBytes) }, nil},
	{"oldest_dirty_age_seconds", "Age of the oldest write that the data disk lacks, at most; 0 when there is none.", gauge, func(s *Sample) float64 { return s.OldestSeconds }, nil},
	{"zero_extents", "Ranges that were discarded or zeroed and are not destaged yet.", gauge, func(s *Sample) float64 { return float64(s.Node.Cache.ZeroExtents) }, nil},
	{"map_entries", "Entries of the cache's map.", gauge, func(s *Sample) float64 { return float64(s.Node.Cache.DirtyBlocks) }, nil},
	{"destaged_bytes_total", "Bytes written to the data disk.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.DestagedBytes) }, nil},
	{"destage_batches_total", "Batches in which they were written.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.DestageBatches) }, nil},
	{"superseded_bytes_total", "Bytes that never had to be destaged, because they were written again.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.SupersededBytes) }, nil},
	{"bypassed_bytes_total", "Bytes of long sequential writes that went past the log.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.BypassedBytes) }, nil},
	{"log_damaged_reads_total", "Reads that found the log device's contents damaged; the peer served them, or they failed.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.Rotten) }, nil},
	{"throttled_total", "Times that a write found the log full.", counter, func(s *Sample) float64 { return float64(s.Node.Cache.Throttled) }, nil},
	{"traced", "1 while the time of requests is counted: only then there are histograms.", gauge, func(s *Sample) float64 { return one(s.Latency != nil) }, nil},
	{"own_stamps", "1 while that is done by the server's own stamps, without the kernel's part, because no probes can be attached.", gauge, func(s *Sample) float64 { return one(s.OwnStamps) }, nil},
}

// sockets are the metrics of each connection to the peer.
var sockets = []struct {
	name, help string
	kind       prometheus.ValueType
	value      func(t *wire.TCP) float64
}{
	{"tcp_round_trip_seconds", "Smoothed round trip of segments to the peer.", gauge, func(t *wire.TCP) float64 { return seconds(t.RTTNanos) }},
	{"tcp_round_trip_deviation_seconds", "Mean deviation from it.", gauge, func(t *wire.TCP) float64 { return seconds(t.RTTVarNanos) }},
	{"tcp_min_round_trip_seconds", "The least of the last five minutes; 0 when none was measured.", gauge, func(t *wire.TCP) float64 { return seconds(t.MinRTTNanos) }},
	{"tcp_retransmits_total", "Segments that were sent again, of the connection that there is.", counter, func(t *wire.TCP) float64 { return float64(t.Retransmits) }},
	{"tcp_lost_segments", "Segments under way that are taken for lost.", gauge, func(t *wire.TCP) float64 { return float64(t.Lost) }},
	{"tcp_unacked_segments", "Segments under way.", gauge, func(t *wire.TCP) float64 { return float64(t.Unacked) }},
	{"tcp_congestion_window_segments", "How many segments may be under way.", gauge, func(t *wire.TCP) float64 { return float64(t.Window) }},
	{"tcp_send_queue_bytes", "Bytes given to the socket that the peer has not acknowledged.", gauge, func(t *wire.TCP) float64 { return float64(t.SendQueueBytes) }},
	{"tcp_not_sent_bytes", "Those of them that have not been sent yet.", gauge, func(t *wire.TCP) float64 { return float64(t.NotSentBytes) }},
	{"tcp_receive_queue_bytes", "Bytes that arrived and are not read.", gauge, func(t *wire.TCP) float64 { return float64(t.ReceiveQueueBytes) }},
	{"tcp_delivery_bytes_per_second", "Rate at which the newest segments were delivered; 0 when it was not measured.", gauge, func(t *wire.TCP) float64 { return float64(t.DeliveryRate) }},
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

func paired(s *Sample) bool    { return s.HasPeer }
func leads(s *Sample) bool     { return s.HasPeer && s.Node.Primary }
func connected(s *Sample) bool { return s.Node.Connected && s.Node.RoundTripNanos > 0 }

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

func one(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// collector reads a source when it is asked. Nothing is kept between scrapes.
type collector struct {
	src   Source
	build []string // version, revision, Go

	plain, sockets                         []*prometheus.Desc
	info, state, role, peer                *prometheus.Desc
	watermark, lost, lsn, reads            *prometheus.Desc
	requests, requestBytes, failed, timing *prometheus.Desc
}

// NewCollector makes the collector of a volume.
func NewCollector(volume string, src Source) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("robib_"+name, help, labels, prometheus.Labels{"volume": volume})
	}
	c := &collector{src: src, build: build(),
		info:         desc("build_info", "Always 1: the labels say what runs.", "version", "revision", "goversion"),
		state:        desc("volume_state", "1 for the state that the volume is in, 0 for all others.", "state"),
		role:         desc("role", "1 for the half of the volume that this machine is, 0 for the other.", "role"),
		peer:         desc("peer_state", "1 for what is true of the peer: none is configured, it is connected, it is lost or has not come yet.", "state"),
		watermark:    desc("log_watermark_ratio", "Fill of the log from which destage does not wait for an idle disk (low), and writes are admitted as fast as space comes back (high).", "watermark"),
		lost:         desc("disk_lost", "1 when that disk has failed or is missing.", "disk"),
		lsn:          desc("lsn", "Newest log segment that got as far as that.", "position"),
		reads:        desc("reads_total", "Runs of bytes that were read, by where they came from.", "source"),
		requests:     desc("requests_total", "Requests that were answered.", "op"),
		requestBytes: desc("request_bytes_total", "Bytes asked for by requests that did not fail.", "op"),
		failed:       desc("request_errors_total", "Requests that were answered with an error.", "op"),
		timing: desc("request_duration_seconds", "Time that requests took, by stage. The stages from queue to complete add up to total; "+
			"device is what the kernel waited for the volume, ring and wake are parts of dispatch, from_* are totals of reads by where they were served.", "op", "stage"),
	}
	for _, p := range plain {
		c.plain = append(c.plain, desc(p.name, p.help))
	}
	for _, p := range sockets {
		c.sockets = append(c.sockets, desc(p.name, p.help, "connection"))
	}
	return c
}

// build tells which build this is: version, revision and Go's version.
func build() []string {
	b := []string{"unknown", "unknown", runtime.Version()}
	if i, ok := debug.ReadBuildInfo(); ok {
		b[0] = i.Main.Version
		for _, s := range i.Settings {
			if s.Key == "vcs.revision" {
				b[1] = s.Value
			}
		}
	}
	return b
}

// Describe lists all that there may be.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range slices.Concat([]*prometheus.Desc{c.info, c.state, c.role, c.peer, c.watermark, c.lost, c.lsn, c.reads, c.requests, c.requestBytes, c.failed, c.timing}, c.sockets, c.plain) {
		out <- d
	}
}

// Collect takes a sample. When that fails the scrape fails.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s, err := c.src.Sample()
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.info, err)
		return
	}
	put := func(d *prometheus.Desc, k prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, k, v, labels...)
	}
	put(c.info, gauge, 1, c.build...)
	for i, p := range plain {
		if p.when == nil || p.when(s) {
			put(c.plain[i], p.kind, p.value(s))
		}
	}
	s.Sockets.Each(func(connection string, t *wire.TCP) {
		for i, p := range sockets {
			put(c.sockets[i], p.kind, p.value(t), connection)
		}
	})
	n := &s.Node
	for _, w := range mirror.StateList {
		put(c.state, gauge, one(w == n.State), w)
	}
	put(c.role, gauge, one(n.Primary), "primary")
	put(c.role, gauge, one(!n.Primary), "secondary")
	put(c.peer, gauge, one(!s.HasPeer), peerNone)
	put(c.peer, gauge, one(s.HasPeer && n.Connected), peerConnected)
	put(c.peer, gauge, one(s.HasPeer && !n.Connected), peerLost)
	put(c.watermark, gauge, float64(n.Cache.LowWater)/100, "low")
	put(c.watermark, gauge, float64(n.Cache.HighWater)/100, "high")
	put(c.lost, gauge, one(s.DataLost), "data")
	put(c.lost, gauge, one(s.LogLost), "log")
	put(c.lsn, gauge, float64(n.Sealed), "sealed")
	put(c.lsn, gauge, float64(n.Durable), "durable")
	put(c.lsn, gauge, float64(n.Destaged), "destaged")
	if leads(s) {
		put(c.lsn, gauge, float64(n.Shipped), "shipped")
		put(c.lsn, gauge, float64(n.Received), "received")
		put(c.lsn, gauge, float64(n.RemoteDurable), "remote_durable")
	}
	put(c.reads, counter, float64(n.Cache.ReadRAM), "ram")
	put(c.reads, counter, float64(n.Cache.ReadLog), "log")
	put(c.reads, counter, float64(n.Cache.ReadZero), "zero")
	put(c.reads, counter, float64(n.Cache.ReadData), "disk")
	put(c.reads, counter, float64(n.Cache.ReadPeer), "peer")
	c.collectRequests(s, put)
	if s.Latency != nil {
		c.collectLatency(s.Latency, s.Traced, out)
	}
}

func (c *collector) collectRequests(s *Sample, put func(*prometheus.Desc, prometheus.ValueType, float64, ...string)) {
	if s.Requests == nil {
		return
	}
	for op := range bpf.Ops { // in the order of blk.Op
		put(c.requests, counter, float64(s.Requests.Requests[op]), op.String())
		put(c.failed, counter, float64(s.Requests.Failed[op]), op.String())
		if op != bpf.Flush {
			put(c.requestBytes, counter, float64(s.Requests.Bytes[op]), op.String())
		}
	}
}

// collectLatency gives a histogram for each operation and stage that there were.
func (c *collector) collectLatency(l *bpf.Snapshot, begun time.Time, out chan<- prometheus.Metric) {
	for op := range bpf.Ops {
		for st := range bpf.Stages {
			h := &l.Hists[op][st]
			if h.Count == 0 {
				continue
			}
			m, err := newHistogram(c.timing, h, begun, op.String(), st.String())
			if err != nil {
				m = prometheus.NewInvalidMetric(c.timing, err)
			}
			out <- m
		}
	}
}
