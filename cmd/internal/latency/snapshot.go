package latency

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/mirror/wire"
)

// Snapshot is the state of one device's probes at a moment; it crosses the control socket.
type Snapshot struct {
	Device   string        `json:"device"`
	AtNanos  int64         `json:"at_ns"`    // when it was taken
	Since    int64         `json:"since_ns"` // when counting began
	Hists    []Hist        `json:"histograms"`
	Counts   bpf.Stats     `json:"counts"`
	Outliers []Request     `json:"outliers"` // the newest, in order of Seq
	Inflight []Request     `json:"inflight"`
	Probes   []Probe       `json:"probes"`
	Limit    int64         `json:"threshold_ns"`
	Rate     int           `json:"outliers_per_s"`
	Network  *wire.Sockets `json:"network,omitempty"` // to the peer
	Note     string        `json:"note,omitempty"`    // what is not seen
	counted  *bpf.Snapshot // of Hists and Counts
}

// Hist is one histogram that is not empty; Buckets are pairs of an index (bpf.Bounds) and a count.
type Hist struct {
	Op      string      `json:"op"`
	Stage   string      `json:"stage"`
	Count   uint64      `json:"count"`
	Sum     uint64      `json:"sum_ns"`
	Min     uint64      `json:"min_ns"`
	Max     uint64      `json:"max_ns"`
	Buckets [][2]uint64 `json:"buckets"`
}

// Probe is one program: attached and what it costs, or why not.
type Probe struct {
	Tracepoint string  `json:"tracepoint"`
	Gives      string  `json:"gives"`
	Attached   bool    `json:"attached"`
	Why        string  `json:"why,omitempty"`
	Runs       uint64  `json:"runs"`
	Nanos      uint64  `json:"run_ns"`
	PerRun     float64 `json:"per_run_ns"`
	Missed     uint64  `json:"missed"`
}

// pack makes Hists of s.
func pack(s *bpf.Snapshot) []Hist {
	list := []Hist{}
	for op := range bpf.Ops {
		for st := range bpf.Stages {
			h := &s.Hists[op][st]
			if h.Count == 0 {
				continue
			}
			p := Hist{Op: op.String(), Stage: st.String(), Count: h.Count, Sum: h.Sum, Min: h.Min, Max: h.Max}
			for i, n := range h.Buckets {
				if n > 0 {
					p.Buckets = append(p.Buckets, [2]uint64{uint64(i), n})
				}
			}
			list = append(list, p)
		}
	}
	return list
}

// unpack gives the histograms back; what is not known here is an error.
func (s *Snapshot) unpack() (*bpf.Snapshot, error) {
	if s.counted != nil {
		return s.counted, nil
	}
	c := &bpf.Snapshot{Stats: s.Counts}
	for _, p := range s.Hists {
		op, ok := opNamed(p.Op)
		st, ok2 := stageNamed(p.Stage)
		if !ok || !ok2 {
			return nil, fmt.Errorf("latency: the server counts %s/%s, which is not known here: is it another version?", p.Op, p.Stage)
		}
		h := &c.Hists[op][st]
		h.Count, h.Sum, h.Min, h.Max = p.Count, p.Sum, p.Min, p.Max
		for _, b := range p.Buckets {
			if b[0] >= bpf.Buckets {
				return nil, fmt.Errorf("latency: bucket %d of %s/%s", b[0], p.Op, p.Stage)
			}
			h.Buckets[b[0]] = b[1]
		}
	}
	s.counted = c
	return c, nil
}

func opNamed(name string) (bpf.Op, bool) {
	for o := range bpf.Ops {
		if o.String() == name {
			return o, true
		}
	}
	return 0, false
}

func stageNamed(name string) (bpf.Stage, bool) {
	for s := range bpf.Stages {
		if s.String() == name {
			return s, true
		}
	}
	return 0, false
}

// Request is one request, complete or in flight.
type Request struct {
	Seq    uint64 `json:"seq,omitempty"` // of outliers, from 1
	Op     string `json:"op"`
	Sector uint64 `json:"sector"` // of 512 bytes
	Bytes  uint32 `json:"bytes"`
	Queue  int    `json:"queue"` // -1: not known
	Tag    int    `json:"tag"`
	Status int    `json:"status"` // the kernel's blk_status_t
	Start  int64  `json:"start_ns"`
	Total  int64  `json:"total_ns"` // to its end, or to now
	Where  string `json:"where"`    // in flight: what it waits for; "complete"
	Waits  int64  `json:"waits_ns"` // in flight: since it is there
	Stages []Time `json:"stages"`
}

// Time is what one stage took.
type Time struct {
	Stage string `json:"stage"`
	Nanos int64  `json:"ns"`
}

// oldestFirst tells of requests that are not complete.
func oldestFirst(requests []bpf.Request, now int64) []Request {
	slices.SortFunc(requests, func(a, b bpf.Request) int { return cmp.Compare(a.Start, b.Start) })
	list := []Request{}
	for i := range requests {
		list = append(list, tell(&requests[i], now))
	}
	return list
}

// tell makes a Request of r as of now. Without Issue it is the server's own account, which begins and ends with it.
func tell(r *bpf.Request, now int64) Request {
	end := r.Complete
	if end == 0 {
		end = now
	}
	q := Request{Op: r.Op.String(), Sector: r.Sector, Bytes: r.Bytes, Queue: r.Queue, Tag: r.Tag, Status: r.Status, Start: r.Start, Total: max(end-r.Start, 0), Stages: []Time{}}
	at := r.Start
	add := func(s bpf.Stage, t int64) {
		if t == 0 {
			return
		}
		was := at
		at = min(max(at, t), end)
		q.Stages = append(q.Stages, Time{s.String(), at - was})
	}
	q.Where = "made"
	if r.Insert != 0 {
		q.Where = "scheduler"
	}
	add(bpf.StageQueue, r.Issue)
	stamped := r.Complete == 0 || r.Stamps[bpf.Committed] != 0
	if r.Issue != 0 || r.Stamps[bpf.Pickup] != 0 {
		q.Where = "driver"
		if r.Posted != 0 && r.Posted >= r.Issue {
			q.Where = "ring"
		}
		for i, t := range r.Stamps {
			if stamped && t != 0 {
				if st := bpf.StageDispatch + bpf.Stage(i); st != bpf.StageDispatch || r.Issue != 0 {
					add(st, t)
				}
				q.Where = [...]string{"server", "after_server_queue", "after_log", "after_data", "after_peer_sent", "after_peer_acked", "committed"}[i]
			}
		}
	}
	if r.Complete == 0 {
		q.Waits = max(now-max(at, r.Insert, r.Posted), 0)
		return q
	}
	q.Where = "complete"
	switch {
	case r.Stamps[bpf.Committed] == 0:
		add(bpf.StageDevice, end)
	case r.Issue != 0:
		add(bpf.StageComplete, end)
	}
	return q
}
