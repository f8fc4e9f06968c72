package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/latency"
)

// LatencyProfileCmd shows how it changes.
type LatencyProfileCmd struct{ looked }

// Run prints a line for each operation whenever an interval ends; JSON at the end.
func (c *LatencyProfileCmd) Run(cli *CLI) error {
	w, err := parseWords(c.Words, words{duration: 10 * time.Second, interval: time.Second}, "interval", "op")
	if err != nil {
		return err
	}
	ctx, src, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	before, err := src.Take()
	if err != nil {
		return err
	}
	began := before.AtNanos
	text := !cli.JSON && !cli.Pretty
	if text {
		latency.ProfileHead(os.Stdout)
	}
	doc := latency.Profile{Intervals: []*latency.Report{}}
	for left := w.duration; left > 0; left -= w.interval {
		going := wait(ctx, min(w.interval, left))
		now, err := src.Take()
		if err != nil {
			return err
		}
		r, err := src.report(before, now, w.Choice)
		if err != nil {
			return err
		}
		if text {
			r.Profile(os.Stdout, float64(now.AtNanos-began)/1e9)
		} else {
			doc.Intervals = append(doc.Intervals, r)
		}
		if before = now; !going {
			break
		}
	}
	if text {
		latency.Note(os.Stdout, src.note)
		return nil
	}
	return cli.print(doc, nil)
}

// LatencyOutliersCmd shows slow requests one by one.
type LatencyOutliersCmd struct{ looked }

// outliersEvery is how often new ones are looked for.
const outliersEvery = 200 * time.Millisecond

// Run sets the threshold, prints what comes, and puts the threshold back.
func (c *LatencyOutliersCmd) Run(cli *CLI) (err error) {
	w, err := parseWords(c.Words, words{duration: 5 * time.Second, threshold: 10 * time.Millisecond, rate: bpf.DefaultRate}, "threshold", "rate", "op")
	if err != nil {
		return err
	}
	ctx, src, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	first, err := src.Take()
	if err != nil {
		return err
	}
	if err := src.SetThreshold(w.threshold, w.rate); err != nil {
		return err
	}
	defer func() {
		if e := src.SetThreshold(time.Duration(first.Limit), first.Rate); err == nil {
			err = e
		}
	}()
	text := !cli.JSON && !cli.Pretty
	doc := latency.Outliers{Device: first.Device, Volume: src.volume, Threshold: int64(w.threshold), Rate: w.rate, Outliers: []latency.Request{}, Note: src.note}
	var last uint64
	if n := len(first.Outliers); n > 0 {
		last = first.Outliers[n-1].Seq
	}
	for end, going := time.Now().Add(w.duration), true; going; {
		left := time.Until(end)
		going = wait(ctx, min(outliersEvery, max(left, 0))) && left > outliersEvery
		now, err := src.Take()
		if err != nil {
			return err
		}
		for _, q := range now.Outliers {
			if q.Seq <= last || w.Op != "" && q.Op != w.Op {
				continue
			}
			last = q.Seq
			if text {
				q.Slow(os.Stdout, float64(q.Start+q.Total-first.AtNanos)/1e9)
			} else {
				doc.Outliers = append(doc.Outliers, q)
			}
		}
		doc.Slow, doc.Shed, doc.Seconds = now.Counts.Slow-first.Counts.Slow, now.Counts.Shed-first.Counts.Shed, float64(now.AtNanos-first.AtNanos)/1e9
	}
	return cli.print(&doc, func(out io.Writer) error {
		latency.SlowEnd(out, doc.Slow, doc.Shed, w.threshold, doc.Seconds)
		latency.Note(out, doc.Note)
		return nil
	})
}

// LatencyInflightCmd shows what is not complete.
type LatencyInflightCmd struct {
	looked
	watching
}

// inflightFor is how long probes of this process look before they tell what is stuck.
const inflightFor = time.Second

// Run shows what is in flight: at once where a volume's server has looked already.
func (c *LatencyInflightCmd) Run(cli *CLI) error {
	w, err := parseWords(c.Words, words{duration: inflightFor}, "op")
	if err != nil {
		return err
	}
	ctx, src, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	answer := func() (any, func(io.Writer) error, error) {
		now, err := src.Take()
		if err != nil {
			return nil, nil, err
		}
		doc := &latency.Inflight{Device: now.Device, Volume: src.volume, Inflight: []latency.Request{}, Note: src.note}
		for _, q := range now.Inflight {
			if w.Op == "" || w.Op == q.Op {
				doc.Inflight = append(doc.Inflight, q)
			}
		}
		return doc, func(out io.Writer) error {
			latency.Waiting(out, doc.Inflight)
			latency.Note(out, doc.Note)
			return nil
		}, nil
	}
	if c.Watch {
		return cli.repeat(ctx, max(w.duration, watchLeast), newScreen(os.Stdout), answer)
	}
	if !src.server || w.has["duration"] {
		wait(ctx, w.duration)
	}
	doc, text, err := answer()
	if err != nil {
		return err
	}
	return cli.print(doc, text)
}

// LatencyProbesCmd shows the probes themselves.
type LatencyProbesCmd struct {
	Dev   string   `arg:"" optional:"" help:"A volume's name shows its server's; without it this machine's abilities."`
	Words []string `arg:"" optional:"" help:"duration SECONDS (1): how long to measure what they cost."`
}

// Run attaches (or asks), has the kernel time each run for a while, and shows. That none can be attached
// is an answer, too.
func (c *LatencyProbesCmd) Run(cli *CLI) error {
	w, err := parseWords(c.Words, words{duration: time.Second})
	if err != nil {
		return err
	}
	ctx, stop := interrupted()
	defer stop()
	stats, err := bpf.Measure()
	if err == nil {
		defer stats.Close()
	}
	doc, err := c.look(ctx, w.duration)
	var no *latency.NotAttachedError
	if errors.As(err, &no) {
		doc, err = latency.Attached{Probes: latency.Unattached(no)}, nil
	}
	if err != nil {
		return err
	}
	return cli.print(&doc, func(out io.Writer) error {
		latency.ShowProbes(out, doc.Probes, doc.Note)
		return nil
	})
}

// look attaches, or asks, and waits.
func (c *LatencyProbesCmd) look(ctx context.Context, d time.Duration) (doc latency.Attached, err error) {
	if c.Dev == "" {
		p, err := bpf.Open(bpf.Options{})
		if err != nil {
			return doc, &latency.NotAttachedError{Err: err}
		}
		defer p.Close()
		wait(ctx, d)
		doc.Probes = latency.Probes(p)
		return doc, nil
	}
	src, err := watch(c.Dev, bpf.Options{})
	if err != nil {
		return doc, err
	}
	defer src.Close()
	wait(ctx, d)
	now, err := src.Take()
	if err != nil {
		return doc, err
	}
	doc.Probes, doc.Note = now.Probes, now.Note
	return doc, nil
}
