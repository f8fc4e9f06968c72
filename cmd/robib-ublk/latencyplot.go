package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/cmd/internal/latency/picture"
	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// LatencyPlotCmd draws how it changes.
type LatencyPlotCmd struct {
	Output string `short:"o" required:"" help:"The file to write: NAME.svg or NAME.png." placeholder:"FILE"`
	looked
}

// maxColumns bounds what a picture can show.
const maxColumns = 2000

// Run counts for a while, interval by interval, and writes the picture; ^C ends it early.
func (c *LatencyPlotCmd) Run(cli *CLI) error {
	w, err := parseWords(c.Words, words{duration: time.Minute, interval: time.Second}, "interval", "op")
	if err != nil {
		return err
	}
	format := strings.TrimPrefix(filepath.Ext(c.Output), ".")
	if !slices.Contains(picture.Formats, format) {
		return volume.Usagef("latency plot: -o %s: name the file .%s", c.Output, strings.Join(picture.Formats, " or ."))
	}
	if w.duration == 0 || w.duration/w.interval >= maxColumns {
		return volume.Usagef("latency plot: duration %v in intervals of %v: from 1 to %d of them can be shown", w.duration, w.interval, maxColumns)
	}
	file, err := os.CreateTemp(filepath.Dir(c.Output), ".plot-*") // now, not when all has been counted
	if err != nil {
		return fmt.Errorf("latency plot: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	s, err := c.count(w)
	if err != nil {
		return err
	}
	if err := s.Draw(file, format); err != nil {
		return fmt.Errorf("latency plot: %w", err)
	}
	if err := errors.Join(file.Chmod(0o644), file.Close(), os.Rename(file.Name(), c.Output)); err != nil {
		return fmt.Errorf("latency plot: %w", err)
	}
	doc := latency.Plot{File: c.Output, Requests: s.Requests(), Intervals: s.Columns()}
	return cli.print(doc, func(out io.Writer) error {
		_, err := fmt.Fprintf(out, "%s: %d requests in %d intervals\n", doc.File, doc.Requests, doc.Intervals)
		return err
	})
}

// count makes the series.
func (c *LatencyPlotCmd) count(w words) (*picture.Series, error) {
	ctx, src, done, err := c.open()
	if err != nil {
		return nil, err
	}
	defer done()
	s := &picture.Series{Name: c.Dev}
	before, err := src.Take()
	if err != nil {
		return nil, err
	}
	began := before.AtNanos
	for end, going := time.Now().Add(w.duration), true; going; {
		left := time.Until(end)
		going = wait(ctx, min(w.interval, max(left, 0))) && left > w.interval
		now, err := src.Take()
		if err != nil {
			return nil, err
		}
		counts, from, err := latency.Between(before, now)
		if err != nil {
			return nil, err
		}
		only(counts, w.Op)
		s.Add(float64(max(from-began, 0))/1e9, float64(now.AtNanos-began)/1e9, counts)
		before = now
	}
	return s, nil
}

// only empties the histograms of other operations than op; "" keeps all.
func only(s *bpf.Snapshot, op string) {
	for o := range bpf.Ops {
		if op != "" && o.String() != op {
			s.Hists[o] = [bpf.Stages]bpf.Histogram{}
		}
	}
}
