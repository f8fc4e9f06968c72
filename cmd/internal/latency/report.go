package latency

import (
	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/mirror/wire"
)

// Report is what a device's requests took in one span of time.
type Report struct {
	Device     string        `json:"device"`
	Volume     string        `json:"volume,omitempty"`
	Seconds    float64       `json:"duration_s"`
	Operations []Operation   `json:"operations"` // that there were
	Counts     Counts        `json:"counts"`
	Network    *wire.Sockets `json:"network,omitempty"` // to the peer, at the end; nil: there is no connection
	Note       string        `json:"note,omitempty"`    // what is not seen, and why
}

// Operation is one kind of request.
type Operation struct {
	Op        string   `json:"op"`
	Count     uint64   `json:"count"`
	PerSecond float64  `json:"per_s"`
	Stages    []Figure `json:"stages"`                // in their order; the last is the total
	Served    []Figure `json:"served_from,omitempty"` // totals of a volume's reads, by the farthest place that a part of each came from
}

// Figure is the distribution of one stage. Percentiles are within 6.25 %; all else is exact (but
// Min and Max of a part of the time are those of their buckets).
type Figure struct {
	Stage string  `json:"stage"`
	Count uint64  `json:"count"`
	Share float64 `json:"share_percent"` // of the sum of all totals
	Sum   uint64  `json:"sum_ns"`
	Mean  float64 `json:"mean_ns"`
	Min   uint64  `json:"min_ns"`
	P50   uint64  `json:"p50_ns"`
	P90   uint64  `json:"p90_ns"`
	P99   uint64  `json:"p99_ns"`
	P999  uint64  `json:"p99_9_ns"`
	P9999 uint64  `json:"p99_99_ns"`
	Max   uint64  `json:"max_ns"`
	Rows  []Row   `json:"histogram,omitempty"`
}

// Row is one line of a histogram: durations from Low to below High.
type Row struct {
	Low   uint64 `json:"low_ns"`
	High  uint64 `json:"high_ns"`
	Count uint64 `json:"count"`
}

// Counts are those of requests.
type Counts struct {
	Completed uint64 `json:"completed"`
	Matched   uint64 `json:"matched"` // with the stamps of the volume's server
	Failed    uint64 `json:"failed"`
	Unseen    uint64 `json:"not_seen_from_the_start"`
	Merged    uint64 `json:"merged"`
	Partial   uint64 `json:"partial"`
	Full      uint64 `json:"not_followed"`
	Slow      uint64 `json:"slow"`
	Shed      uint64 `json:"slow_not_told"`
}

// Choice limits a report; the zero value is everything, without histograms.
type Choice struct {
	Op, Stage string
	Rows      bool
}

// Between is what was counted from began, when before was taken, to now; from the beginning if before is
// nil or of another server.
func Between(before, now *Snapshot) (s *bpf.Snapshot, began int64, err error) {
	if s, err = now.unpack(); err != nil || before == nil || before.Since != now.Since {
		return s, now.Since, err
	}
	old, err := before.unpack()
	if err != nil {
		return nil, 0, err
	}
	return s.Since(old), before.AtNanos, nil
}

// NewReport is what happened from before, nil the beginning, to now.
func NewReport(before, now *Snapshot, c Choice) (*Report, error) {
	s, began, err := Between(before, now)
	if err != nil {
		return nil, err
	}
	r := &Report{Device: now.Device, Seconds: float64(now.AtNanos-began) / 1e9, Operations: []Operation{}, Network: now.Network, Note: now.Note}
	n := &s.Stats
	r.Counts = Counts{n.Completed, n.Matched, n.Failed, n.Unseen, n.Merged, n.Partial, n.Full, n.Slow, n.Shed}
	for op := range bpf.Ops {
		total := &s.Hists[op][bpf.StageTotal]
		if total.Count == 0 || c.Op != "" && c.Op != op.String() {
			continue
		}
		o := Operation{Op: op.String(), Count: total.Count}
		if r.Seconds > 0 {
			o.PerSecond = float64(total.Count) / r.Seconds
		}
		staged := s.Hists[op][bpf.StageDispatch].Count > 0
		for _, st := range order {
			h := &s.Hists[op][st]
			if h.Count == 0 || c.Stage != "" && c.Stage != st.String() || c.Stage == "" && st == bpf.StageDevice && staged && s.Hists[op][bpf.StageDispatch].Count == h.Count {
				continue // the server's stages say it in parts
			}
			o.Stages = append(o.Stages, figure(st, h, total.Sum, c.Rows))
		}
		for st := bpf.StageFromRAM; st <= bpf.StageFromPeer; st++ {
			h, asked := &s.Hists[op][st], c.Stage == st.String()
			switch {
			case h.Count == 0 || c.Stage != "" && !asked:
			case asked:
				o.Stages = append(o.Stages, figure(st, h, total.Sum, c.Rows))
			default:
				o.Served = append(o.Served, figure(st, h, total.Sum, c.Rows))
			}
		}
		r.Operations = append(r.Operations, o)
	}
	return r, nil
}

// order is that of a report's rows.
var order = []bpf.Stage{bpf.StageQueue, bpf.StageDevice, bpf.StageDispatch, bpf.StageRing, bpf.StageWake, bpf.StageServer, bpf.StageLog, bpf.StageData,
	bpf.StageSent, bpf.StageAcked, bpf.StageCommit, bpf.StageComplete, bpf.StageTotal}

func figure(st bpf.Stage, h *bpf.Histogram, total uint64, rows bool) Figure {
	f := Figure{Stage: st.String(), Count: h.Count, Sum: h.Sum, Mean: h.Mean(), Min: h.Min, P50: h.Percentile(50), P90: h.Percentile(90),
		P99: h.Percentile(99), P999: h.Percentile(99.9), P9999: h.Percentile(99.99), Max: h.Max}
	if total > 0 {
		f.Share = float64(h.Sum) * 100 / float64(total)
	}
	if rows {
		f.Rows = byTwo(h)
	}
	return f
}

// byTwo gives h's rows by powers of two, from the first that is not empty to the last.
func byTwo(h *bpf.Histogram) (rows []Row) {
	for i, n := range h.Buckets {
		low, high := bpf.Bounds(i)
		if i < bpf.SubBuckets { // linear below
			low, high = 0, bpf.SubBuckets
		} else if at := i - i%bpf.SubBuckets; true {
			low, _ = bpf.Bounds(at)
			high = 2 * low
		}
		if len(rows) == 0 && n == 0 {
			continue
		}
		if len(rows) == 0 || rows[len(rows)-1].Low != low {
			rows = append(rows, Row{low, high, 0})
		}
		rows[len(rows)-1].Count += n
	}
	for len(rows) > 0 && rows[len(rows)-1].Count == 0 {
		rows = rows[:len(rows)-1]
	}
	return rows
}

// Culprit is the stage with the largest share of an operation's time, without the total.
func (o *Operation) Culprit() (f Figure) {
	for _, s := range o.Stages {
		if s.Stage != bpf.StageTotal.String() && s.Stage != bpf.StageRing.String() && s.Stage != bpf.StageWake.String() && s.Share >= f.Share {
			f = s
		}
	}
	return f
}
