package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// LatencyCmd groups the reports on requests' time.
type LatencyCmd struct {
	Show     LatencyShowCmd     `cmd:"" help:"Percentiles of each stage, and its share of the total."`
	Hist     LatencyHistCmd     `cmd:"" help:"Histograms; words choose: op write, stage log."`
	Profile  LatencyProfileCmd  `cmd:"" help:"A line for each operation and interval."`
	Plot     LatencyPlotCmd     `cmd:"" help:"A picture: a heat map of latency, and the mean time of each stage, over time."`
	Outliers LatencyOutliersCmd `cmd:"" help:"Each request that takes longer than threshold, with its stages."`
	Inflight LatencyInflightCmd `cmd:"" help:"Requests that are not complete, where they are and for how long."`
	Probes   LatencyProbesCmd   `cmd:"" help:"Which probes are attached, what they cost, and why others are not."`
}

// looked is whom a report is about, and words like `duration 5`.
type looked struct {
	Dev   string   `arg:"" help:"A volume's name, or the path of any block device."`
	Words []string `arg:"" optional:"" help:"duration SECONDS (5; ^C ends it early) and the command's own, each followed by its value."`
}

// words are those of a command line, with what is not said.
type words struct {
	duration, interval, threshold time.Duration
	rate                          int
	latency.Choice
	has map[string]bool
}

// parseWords reads pairs of a word and its value; allowed are the words beside duration.
func parseWords(list []string, w words, allowed ...string) (words, error) {
	w.has = map[string]bool{}
	allowed = append([]string{"duration"}, allowed...)
	for i := 0; i < len(list); i += 2 {
		word := list[i]
		if !slices.Contains(allowed, word) {
			return w, volume.Usagef("latency: %q is no word here: there are %s", word, strings.Join(allowed, ", "))
		}
		if i+1 == len(list) {
			return w, volume.Usagef("latency: %s needs a value", word)
		}
		if w.has[word] {
			return w, volume.Usagef("latency: %s is there twice", word)
		}
		w.has[word] = true
		value := list[i+1]
		var err error
		switch word {
		case "duration":
			w.duration, err = parseTime(value)
		case "interval":
			if w.interval, err = parseTime(value); err == nil && w.interval < 10*time.Millisecond {
				err = errors.New("at least 10ms")
			}
		case "threshold":
			if w.threshold, err = parseTime(value); err == nil && w.threshold == 0 {
				err = errors.New("more than 0")
			}
		case "rate":
			if w.rate, err = strconv.Atoi(value); err == nil && (w.rate < 1 || w.rate > 1e6) {
				err = errors.New("from 1 to 1000000")
			}
		case "op":
			w.Op = value
			err = oneOf(value, int(bpf.Ops), func(i int) string { return bpf.Op(i).String() })
		case "stage":
			w.Stage = value
			err = oneOf(value, int(bpf.Stages), func(i int) string { return bpf.Stage(i).String() })
		}
		if err != nil {
			return w, volume.Usagef("latency: %s %s: %v", word, value, err)
		}
	}
	return w, nil
}

func oneOf(value string, n int, name func(int) string) error {
	var all []string
	for i := range n {
		all = append(all, name(i))
	}
	if !slices.Contains(all, value) {
		return fmt.Errorf("there are %s", strings.Join(all, ", "))
	}
	return nil
}

// parseTime takes seconds, or a number with a unit: 5, 0.5, 20ms.
func parseTime(s string) (time.Duration, error) {
	if v, err := strconv.ParseFloat(s, 64); err == nil {
		if !(v >= 0 && v < math.MaxInt64/1e9) {
			return 0, errors.New("no time")
		}
		return time.Duration(v * 1e9), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("seconds, or a number with a unit: 20ms")
	}
	return d, nil
}

// watched is an opened source.
type watched struct {
	latency.Source
	volume string // "" for a path
	note   string // what it does not see
	server bool   // it has counted since the volume's server started
}

// report is a latency.Report that says whose it is. Where probes of this process look at a volume's
// device, its server still tells of the network.
func (w *watched) report(before, now *latency.Snapshot, c latency.Choice) (*latency.Report, error) {
	r, err := latency.NewReport(before, now, c)
	if err != nil {
		return nil, err
	}
	r.Volume = w.volume
	if w.note != "" {
		r.Note = w.note
	}
	if w.volume != "" && !w.server {
		var st volume.Status
		if control.Status(w.volume, &st) == nil {
			r.Network = st.Network
		}
	}
	return r, nil
}

// watch opens the source for dev: the server of a volume, else probes of this process.
func watch(dev string, o bpf.Options) (*watched, error) {
	if latency.IsPath(dev) {
		return attach(dev, o)
	}
	if _, err := volume.LoadConfig(dev); err != nil {
		if errors.Is(err, volume.ErrUnknown) {
			err = volume.Usagef("%v; a block device is named by its path", err)
		}
		return nil, err
	}
	src := latency.Ask(dev)
	first, refused := src.Take()
	if refused == nil {
		return &watched{Source: src, volume: dev, server: true, note: first.Note}, nil
	}
	if errors.Is(refused, control.ErrNotRunning) {
		return nil, refused
	}
	var st volume.Status
	if err := control.Status(dev, &st); err != nil {
		return nil, err
	}
	if st.Device == "" {
		return nil, fmt.Errorf("%s is %s and has no block device here", dev, st.Role)
	}
	w, err := attach(st.Device, o)
	if err != nil {
		return nil, err
	}
	w.volume, w.note = dev, fmt.Sprintf("no stages of the server: %v", refused)
	return w, nil
}

func attach(path string, o bpf.Options) (*watched, error) {
	t, err := latency.Open(path, 0, 0, o)
	if errors.Is(err, latency.ErrNoDevice) || errors.Is(err, os.ErrNotExist) && !exists(path) {
		err = volume.Usagef("%v", err)
	}
	if err != nil {
		return nil, err
	}
	return &watched{Source: t}, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// wait returns after d, or when ctx ends: then it reports false.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// open opens the source, and a context that ^C ends; done gives both back.
func (l *looked) open() (ctx context.Context, src *watched, done func(), err error) {
	ctx, stop := interrupted()
	if src, err = watch(l.Dev, bpf.Options{NoRing: true}); err != nil {
		stop()
		return nil, nil, nil, err
	}
	return ctx, src, func() { src.Close(); stop() }, nil
}

// allowed refuses a duration of 0 of what has not counted before.
func (l *looked) allowed(w words, src *watched) error {
	if w.duration == 0 && !src.server {
		return volume.Usagef("latency: duration 0 is for a volume whose server counts: %s", l.Dev)
	}
	return nil
}

// report counts for w.duration; of a volume's server 0 is everything since it started.
func (l *looked) report(w words) (*latency.Report, error) {
	ctx, src, done, err := l.open()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := l.allowed(w, src); err != nil {
		return nil, err
	}
	var before *latency.Snapshot
	if w.duration > 0 {
		if before, err = src.Take(); err != nil {
			return nil, err
		}
		wait(ctx, w.duration)
	}
	if t, own := src.Source.(*latency.Tracer); own {
		if err := t.Stop(); err != nil {
			return nil, err
		}
		before = nil // exact minima and maxima: all that was counted is of this span
	}
	now, err := src.Take()
	if err != nil {
		return nil, err
	}
	return src.report(before, now, w.Choice)
}

// run shows a report by text: once, or again and again.
func (l *looked) run(cli *CLI, w words, again watching, text func(io.Writer, *latency.Report)) error {
	if !again.Watch {
		r, err := l.report(w)
		if err != nil {
			return err
		}
		return cli.print(r, func(out io.Writer) error {
			text(out, r)
			return nil
		})
	}
	ctx, src, done, err := l.open()
	if err != nil {
		return err
	}
	defer done()
	if err := l.allowed(w, src); err != nil {
		return err
	}
	every := watchEvery
	if w.has["duration"] && w.duration > 0 {
		every = max(w.duration, watchLeast)
	}
	before, err := src.Take()
	if err != nil {
		return err
	}
	return cli.repeat(ctx, every, newScreen(os.Stdout), func() (any, func(io.Writer) error, error) {
		now, err := src.Take()
		if err != nil {
			return nil, nil, err
		}
		since := before
		if w.duration == 0 {
			since = nil // all there was
		}
		r, err := src.report(since, now, w.Choice)
		if err != nil {
			return nil, nil, err
		}
		before = now
		return r, func(out io.Writer) error {
			text(out, r)
			return nil
		}, nil
	})
}

const (
	watchEvery = 2 * time.Second        // --watch shows anew, unless a duration is given
	watchLeast = 100 * time.Millisecond // so that looking does not become a load
)

// LatencyShowCmd shows percentiles.
type LatencyShowCmd struct {
	looked
	watching
}

// Run counts for a while and shows a table for each operation.
func (c *LatencyShowCmd) Run(cli *CLI) error {
	w, err := parseWords(c.Words, words{duration: 5 * time.Second}, "op", "stage")
	if err != nil {
		return err
	}
	return c.run(cli, w, c.watching, func(out io.Writer, r *latency.Report) { r.Show(out) })
}

// LatencyHistCmd shows histograms.
type LatencyHistCmd struct {
	looked
	watching
	Millis bool `short:"m" help:"Rows in milliseconds."`
}

// Run counts for a while and shows a histogram for each operation: its total, or the stage asked for.
func (c *LatencyHistCmd) Run(cli *CLI) error {
	w, err := parseWords(c.Words, words{duration: 5 * time.Second}, "op", "stage")
	if err != nil {
		return err
	}
	w.Rows = true
	if w.Stage == "" {
		w.Stage = bpf.StageTotal.String()
	}
	return c.run(cli, w, c.watching, func(out io.Writer, r *latency.Report) { (&latency.Text{Millis: c.Millis}).Hist(out, r) })
}
