package latency

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
)

// cache completes, when it is told, as a volume would: with the stamps of the way there.
type cache struct {
	blk.Null
	q blk.Queue
}

func (c *cache) Info() blk.Info        { return blk.Info{SizeBytes: 1 << 20} }
func (c *cache) Submit(r *blk.Request) { c.q.Push(r) }

func (c *cache) give(at int64, err syscall.Errno) {
	for r := c.q.Pop(); r != nil; r = c.q.Pop() {
		r.Stamp(blk.Begun, blk.Instant{Mono: at - 300})
		r.Stamp(blk.LogDone, blk.Instant{Mono: at - 100})
		r.Err = err
		r.Owner.Complete(r)
	}
}

// A device without probes is reported by what its server stamps, and the report says so.
func TestOwnStamps(t *testing.T) {
	c := &cache{}
	f, err := ublk.NewFake(c, 4, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q := f.Queues()
	onLoop := func(do func(*ublk.Queues)) error { do(q); return nil }
	o, err := FollowOwn("/dev/ublkb7", 1, 4, onLoop, &NotAttachedError{errors.New("not allowed")})
	if err != nil {
		t.Fatal(err)
	}
	now := mono()
	do := func(op blk.Op, n int64, err syscall.Errno, took int64) {
		f.Now = now
		f.Issue(op, 0, 8192, n, nil)
		c.give(now+took, err)
		q.Kick(blk.Instant{Mono: now + took})
		now += took
	}
	do(blk.Read, 4096, 0, 1000)
	if err := o.SetThreshold(2000, 10); err != nil {
		t.Fatal(err)
	}
	do(blk.Write, 4096, 0, 1000)
	do(blk.Write, 4096, syscall.EIO, 5000)
	f.Issue(blk.Discard, 0, 0, 4096, nil)
	s, err := o.Take()
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReport(nil, s, Choice{})
	if err != nil || len(r.Operations) != 2 || r.Note != OwnNote || r.Counts.Completed != 3 || r.Counts.Failed != 1 || r.Counts.Slow != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, want := range []string{"server_queue 700 log 200 commit 100 total 1000", "server_queue 5400 log 400 commit 200 total 6000"} {
		var got []string
		for _, s := range r.Operations[i].Stages {
			got = append(got, s.Stage+" "+strconv.FormatUint(s.Sum, 10))
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s, want %s", g, want)
		}
	}
	if g := r.Operations[0].Served; len(g) != 1 || g[0].Stage != "from_log" || g[0].Sum != 1000 {
		t.Errorf("%+v", g)
	}
	if len(s.Outliers) != 1 || s.Outliers[0].Total != 5000 || s.Outliers[0].Status == 0 || s.Outliers[0].Sector != 16 || len(s.Outliers[0].Stages) != 3 {
		t.Errorf("%+v", s.Outliers)
	}
	if len(s.Inflight) != 1 || s.Inflight[0].Op != "discard" || s.Inflight[0].Where != "server" {
		t.Errorf("%+v", s.Inflight)
	}
	var b bytes.Buffer
	r.Show(&b)
	ShowProbes(&b, s.Probes, s.Note)
	for _, want := range []string{"note: " + OwnNote, "block_rq_issue  not attached", "why  not allowed", "counted by " + OwnNote} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if n := testing.AllocsPerRun(1000, func() { do(blk.Write, 4096, 0, 3000) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := o.Unfollow(onLoop); err != nil {
		t.Fatal(err)
	}
	do(blk.Read, 4096, 0, 1000)
	if c, _, err := o.Count(); err != nil || c.Hists[bpf.Read][bpf.StageTotal].Count != 1 {
		t.Errorf("counted on, %v", err)
	}
}
