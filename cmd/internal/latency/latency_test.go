package latency

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/mirror/wire"
)

var update = flag.Bool("update", false, "write testdata anew")

// sample is a made-up state: writes of a mirrored volume, plain reads, a slow one and a stuck one.
func sample() *Snapshot {
	c := &bpf.Snapshot{Stats: bpf.Stats{Inserted: 10, Issued: 3001, Completed: 3000, Matched: 2000, Failed: 1, Slow: 2, Shed: 1}}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var total uint64
		for _, x := range []struct {
			st   bpf.Stage
			mean uint64
		}{{bpf.StageQueue, 2e3}, {bpf.StageDispatch, 9e3}, {bpf.StageServer, 3e5}, {bpf.StageLog, 2e6}, {bpf.StageSent, 5e3}, {bpf.StageAcked, 4e5}, {bpf.StageCommit, 1e3}, {bpf.StageComplete, 2e4}} {
			ns := x.mean/2 + r.Uint64N(x.mean)
			c.Hists[bpf.Write][x.st].Record(ns)
			total += ns
		}
		c.Hists[bpf.Write][bpf.StageTotal].Record(total)
	}
	for range 1000 {
		q, d := r.Uint64N(1000), 1e4+r.Uint64N(1<<30)
		c.Hists[bpf.Read][bpf.StageQueue].Record(q)
		c.Hists[bpf.Read][bpf.StageDevice].Record(d)
		c.Hists[bpf.Read][bpf.StageTotal].Record(q + d)
		c.Hists[bpf.Read][bpf.StageFromRAM+bpf.Stage(q%4)].Record(q + d)
	}
	slow := tell(&bpf.Request{Op: bpf.Write, Sector: 1 << 33, Bytes: 1 << 19, Start: 1e9, Insert: 1e9 + 10, Issue: 1e9 + 1e7, Posted: 1e9 + 2e7,
		Stamps: [bpf.Stamps]int64{1e9 + 3e7, 1e9 + 4e7, 1e9 + 5e8, 0, 1e9 + 6e8, 1e9 + 9e8, 1e9 + 91e7}, Complete: 2e9, Queue: 1, Tag: 17}, 3e9)
	slow.Seq = 1
	stuck := tell(&bpf.Request{Op: bpf.Discard, Sector: 8, Bytes: 4608, Start: 1e9, Issue: 1e9 + 5, Stamps: [bpf.Stamps]int64{1e9 + 90}, Queue: 0, Tag: 3}, 3e9)
	waits := tell(&bpf.Request{Op: bpf.WriteZeroes, Sector: 8, Bytes: 4 << 20, Start: 1e9, Insert: 2e9, Queue: -1, Tag: -1}, 3e9)
	return &Snapshot{Device: "/dev/ublkb0", AtNanos: 3e9, Since: 1e9, Hists: pack(c), Counts: c.Stats, Outliers: []Request{slow}, Inflight: []Request{stuck, waits}, Limit: 1e8, Rate: 100,
		Network: &wire.Sockets{Control: &wire.TCP{RTTNanos: 2e5, Window: 10},
			Data: &wire.TCP{RTTNanos: 212e3, RTTVarNanos: 30e3, MinRTTNanos: 18e4, Retransmits: 3, Lost: 1, Unacked: 12, Window: 20, SendQueueBytes: 65536, NotSentBytes: 4096, ReceiveQueueBytes: 7, DeliveryRate: 1 << 30}},
		Probes: []Probe{{Tracepoint: "block_rq_issue", Gives: "when", Attached: true, Runs: 10, Nanos: 1234, PerRun: 123.4}, {Tracepoint: "io_uring_complete", Gives: "ring", Why: strings.Repeat("no, ", 50)}}}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test ./cmd/internal/latency -update):\n%s", path, got)
	}
}

func TestTextAndJSON(t *testing.T) {
	s := sample()
	r, err := NewReport(nil, s, Choice{})
	if err != nil {
		t.Fatal(err)
	}
	r.Volume, r.Note = "v", strings.Repeat("long ", 30)
	rows, err := NewReport(nil, s, Choice{Op: "write", Stage: "log", Rows: true})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.Show(&b)
	(&Text{}).Hist(&b, rows)
	(&Text{Millis: true}).Hist(&b, rows)
	ProfileHead(&b)
	r.Profile(&b, 1)
	s.Outliers[0].Slow(&b, 1.5)
	Waiting(&b, s.Inflight)
	Waiting(&b, nil)
	ShowProbes(&b, s.Probes, "")
	golden(t, "text.txt", b.Bytes())
	for _, line := range strings.Split(b.String(), "\n") {
		if n := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "        ")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	key := regexp.MustCompile(`"([A-Za-z0-9_]*[A-Z][A-Za-z0-9_]*)":`)
	s.Hists = s.Hists[:1]
	s.Hists[0].Buckets = s.Hists[0].Buckets[:2]
	profile := &Profile{Intervals: []*Report{rows, rows}}
	outliers := &Outliers{Device: s.Device, Volume: "v", Seconds: 2, Threshold: s.Limit, Rate: s.Rate, Outliers: s.Outliers, Slow: s.Counts.Slow, Shed: s.Counts.Shed}
	inflight := &Inflight{Device: s.Device, Inflight: s.Inflight, Note: OwnNote}
	attached := &Attached{Probes: s.Probes}
	schema := makeSchema(t)
	golden(t, "schema.json", schema.text)
	for name, v := range map[string]any{"show.json": r, "hist.json": rows, "snapshot.json": s, "profile.json": profile, "outliers.json": outliers, "inflight.json": inflight, "probes.json": attached} {
		raw, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, append(raw, '\n'))
		if name != "snapshot.json" { // nobody sees it but the programs at both ends
			schema.check(t, name, raw)
		}
		if m := key.FindStringSubmatch(string(raw)); m != nil {
			t.Errorf("%s: key %s", name, m[1])
		}
	}
}

func TestSnapshotCrossesTheSocket(t *testing.T) {
	s := sample()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got Snapshot
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	a, err := NewReport(nil, s, Choice{})
	b, err2 := NewReport(nil, &got, Choice{})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	if !bytes.Equal(x, y) {
		t.Errorf("%s\n%s", x, y)
	}
	got = Snapshot{Hists: []Hist{{Op: "read", Stage: "nonsense"}}}
	if _, err := NewReport(nil, &got, Choice{}); err == nil {
		t.Error("an unknown stage")
	}
	got = Snapshot{Hists: []Hist{{Op: "read", Stage: "log", Buckets: [][2]uint64{{bpf.Buckets, 1}}}}}
	if _, err := NewReport(nil, &got, Choice{}); err == nil {
		t.Error("an unknown bucket")
	}
}

// A report of a span has what came in it; one across a restart of the server has everything.
func TestSpan(t *testing.T) {
	before, now := sample(), sample()
	now.AtNanos += 1e9
	r, err := NewReport(before, now, Choice{})
	if err != nil || len(r.Operations) != 0 || r.Seconds != 1 || r.Counts.Completed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	now = sample()
	now.Since++
	if r, err = NewReport(before, now, Choice{}); err != nil || r.Counts.Completed != 3000 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestStagesAddUp(t *testing.T) {
	for _, r := range []bpf.Request{
		{Start: 100, Issue: 110, Complete: 200},
		{Start: 100, Issue: 110, Stamps: [bpf.Stamps]int64{120, 122, 150, 0, 130, 125, 160}, Complete: 200},
		{Start: 100, Issue: 110, Stamps: [bpf.Stamps]int64{105, 0, 0, 900, 0, 0, 1000}, Complete: 200},
	} {
		q := tell(&r, 300)
		var sum int64
		for _, s := range q.Stages {
			sum += s.Nanos
		}
		if sum != 100 || q.Total != 100 || q.Where != "complete" {
			t.Errorf("%+v", q)
		}
	}
}

func TestRowsAreAll(t *testing.T) {
	var h bpf.Histogram
	for e := range 50 {
		h.Record(1 << e)
		h.Record(1<<e - 1)
	}
	var n uint64
	last := uint64(0)
	for _, r := range byTwo(&h) {
		if n += r.Count; r.Low != last || r.High <= r.Low {
			t.Errorf("%+v after %d", r, last)
		}
		last = r.High
	}
	if n != h.Count {
		t.Errorf("%d of %d", n, h.Count)
	}
}
