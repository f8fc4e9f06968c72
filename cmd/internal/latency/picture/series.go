package picture

import (
	"github.com/robib-ublk/robib/bpf"
)

// rowsPerTwo is how many rows of the heat map each power of two ns has: fewer than the histogram, so that
// a picture of little traffic is no dust.
const rowsPerTwo = 4

// Series is what a picture shows: columns, one an interval.
type Series struct {
	Name    string // of what was looked at
	columns []column
}

// column is one interval; times in seconds from the beginning of the series.
type column struct {
	from, to float64
	ops      [bpf.Ops]counted
}

// counted is what came of one operation in one interval.
type counted struct {
	count    uint64
	sum      uint64 // ns
	rows     []row  // not empty, ascending
	p50, p99 uint64 // ns
	stages   [bpf.Stages]uint64
}

// row is a cell of the heat map: durations in ns from low to below high.
type row struct {
	low, high uint64
	count     uint64
}

// Add appends what was counted in an interval.
func (s *Series) Add(from, to float64, c *bpf.Snapshot) {
	col := column{from: from, to: to}
	for op := range bpf.Ops {
		h := &c.Hists[op][bpf.StageTotal]
		if h.Count == 0 {
			continue
		}
		x := counted{count: h.Count, sum: h.Sum, rows: rows(h), p50: h.Percentile(50), p99: h.Percentile(99)}
		for st := range bpf.Stages {
			x.stages[st] = c.Hists[op][st].Sum
		}
		col.ops[op] = x
	}
	s.columns = append(s.columns, col)
}

// Requests counts those of all intervals.
func (s *Series) Requests() (n uint64) {
	for op := range bpf.Ops {
		n += s.total(op).count
	}
	return n
}

// Columns counts the intervals.
func (s *Series) Columns() int { return len(s.columns) }

// rows gives h's cells: whole groups of its buckets.
func rows(h *bpf.Histogram) (list []row) {
	const group = bpf.SubBuckets / rowsPerTwo
	for i := 0; i < bpf.Buckets; i += group {
		var n uint64
		for _, k := range h.Buckets[i : i+group] {
			n += k
		}
		if n > 0 {
			low, _ := bpf.Bounds(i)
			_, high := bpf.Bounds(i + group - 1)
			list = append(list, row{max(low, 1), high, n}) // a logarithmic axis has no 0
		}
	}
	return list
}

// total sums an operation up; rows and percentiles are those of no interval and left out.
func (s *Series) total(op bpf.Op) (t counted) {
	for i := range s.columns {
		c := &s.columns[i].ops[op]
		t.count += c.count
		t.sum += c.sum
		for st := range c.stages {
			t.stages[st] += c.stages[st]
		}
	}
	return t
}

// parts are the stages that add up to a request's time, in their order.
var parts = []bpf.Stage{bpf.StageQueue, bpf.StageDevice, bpf.StageDispatch, bpf.StageServer, bpf.StageLog, bpf.StageData, bpf.StageSent, bpf.StageAcked, bpf.StageCommit, bpf.StageComplete}

// part is what stage st took of c's requests, ns. device is what the stages of the server do not explain:
// all of the driver's time where there is no such server.
func (c *counted) part(st bpf.Stage) uint64 {
	if st != bpf.StageDevice {
		return c.stages[st]
	}
	explained := uint64(0)
	for _, x := range parts {
		if x != bpf.StageDevice && x != bpf.StageQueue {
			explained += c.stages[x]
		}
	}
	return c.stages[bpf.StageDevice] - min(explained, c.stages[bpf.StageDevice])
}
