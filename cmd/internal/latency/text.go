package latency

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/robib-ublk/robib/mirror/wire"
)

// Text is what the printers share; none prints a line of more than 100 columns.
type Text struct {
	Millis bool // histograms in ms, not µs
}

// Nanos shows a duration in at most eight columns.
func Nanos(ns float64) string {
	for _, u := range []struct {
		per  float64
		name string
	}{{1e3, "ns"}, {1e6, "µs"}, {1e9, "ms"}, {math.Inf(1), "s"}} {
		v := ns / map[string]float64{"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[u.name]
		if ns >= u.per*0.9995 {
			continue
		}
		switch {
		case u.name == "ns", v >= 99.95:
			return fmt.Sprintf("%.0f%s", v, u.name)
		case v >= 9.995:
			return fmt.Sprintf("%.1f%s", v, u.name)
		default:
			return fmt.Sprintf("%.2f%s", v, u.name)
		}
	}
	return "?"
}

// stageName is a stage as tables show it: what is counted in another row already is set in.
func stageName(s string) string {
	if s == "ring" || s == "wake" || strings.HasPrefix(s, "from_") {
		return " " + s
	}
	return s
}

// Show prints r as a table of stages for each operation.
func (r *Report) Show(w io.Writer) {
	r.head(w)
	for _, o := range r.Operations {
		c := o.Culprit()
		fmt.Fprintf(w, "%s: %d requests, %.0f/s, most of it in %s (%.0f %%)\n", o.Op, o.Count, o.PerSecond, c.Stage, c.Share)
		fmt.Fprintf(w, "\t%-13s%9s%7s%9s%9s%9s%9s%9s%9s%9s\n", "stage", "count", "share", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max")
		for _, f := range slices.Concat(o.Stages, o.Served) {
			fmt.Fprintf(w, "\t%-13s%9d%6.1f%%", stageName(f.Stage), f.Count, f.Share)
			for _, ns := range []float64{f.Mean, float64(f.P50), float64(f.P90), float64(f.P99), float64(f.P999), float64(f.P9999), float64(f.Max)} {
				fmt.Fprint(w, right(Nanos(ns), 9))
			}
			fmt.Fprintln(w)
		}
	}
	r.Network.Each(func(connection string, t *wire.TCP) { showSocket(w, connection, t) })
	r.foot(w)
}

// right sets s at the right of n columns; %*s counts bytes where the flag is not for runes.
func right(s string, n int) string {
	return strings.Repeat(" ", max(n-utf8.RuneCountInString(s), 0)) + s
}

func (r *Report) head(w io.Writer) {
	name := r.Device
	if r.Volume != "" {
		name = r.Volume + " (" + r.Device + ")"
	}
	fmt.Fprintf(w, "%s: %d requests in %.1f s\n", name, r.Counts.Completed, r.Seconds)
}

func (r *Report) foot(w io.Writer) {
	c := &r.Counts
	for _, n := range []struct {
		n    uint64
		what string
	}{{c.Failed, "failed"}, {c.Full, "were not followed: too many in flight"}, {c.Shed, "slow ones were not told of: too many a second"}} {
		if n.n > 0 {
			fmt.Fprintf(w, "note: %d %s\n", n.n, n.what)
		}
	}
	if c.Completed > c.Matched && c.Matched > 0 {
		fmt.Fprintf(w, "note: %d of %d have no stamps of the server\n", c.Completed-c.Matched, c.Completed)
	}
	if c.Completed == 0 {
		fmt.Fprintln(w, "note: nothing came while this looked")
	}
	Note(w, r.Note)
}

// clip shortens s to n columns.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// Hist prints r's histograms, a row for each power of two.
func (t *Text) Hist(w io.Writer, r *Report) {
	r.head(w)
	unit, per := "usecs", 1e3
	if t.Millis {
		unit, per = "msecs", 1e6
	}
	show := func(ns uint64) string {
		v := float64(ns) / per
		switch {
		case v == math.Trunc(v):
		case v < 10:
			return fmt.Sprintf("%.3f", v)
		case v < 100:
			return fmt.Sprintf("%.1f", v)
		}
		return fmt.Sprintf("%.0f", v)
	}
	for _, o := range r.Operations {
		for _, f := range o.Stages {
			fmt.Fprintf(w, "%s %s: %d, mean %s\n", o.Op, f.Stage, f.Count, Nanos(f.Mean))
			fmt.Fprintf(w, "\t%13s    %-13s : %-10s distribution\n", unit, "", "count")
			var most uint64
			for _, x := range f.Rows {
				most = max(most, x.Count)
			}
			for _, x := range f.Rows {
				stars := int(float64(x.Count)*40/float64(max(most, 1)) + 0.5)
				fmt.Fprintf(w, "\t%13s -> %-13s : %-10d |%-40s|\n", show(x.Low), show(x.High), x.Count, strings.Repeat("*", stars))
			}
		}
	}
	r.foot(w)
}

// ProfileHead prints the columns of Profile.
func ProfileHead(w io.Writer) {
	fmt.Fprintf(w, "%8s  %-12s%9s%9s%9s%9s%9s%9s  %s\n", "time", "operation", "per_s", "mean", "p50", "p99", "p99.9", "max", "most of it in")
}

// Profile prints one line for each operation of an interval that ended at seconds.
func (r *Report) Profile(w io.Writer, seconds float64) {
	for _, o := range r.Operations {
		if len(o.Stages) == 0 {
			continue
		}
		f, c := &o.Stages[len(o.Stages)-1], o.Culprit()
		fmt.Fprintf(w, "%7.1fs  %-12s%9.0f", seconds, o.Op, o.PerSecond)
		for _, ns := range []float64{f.Mean, float64(f.P50), float64(f.P99), float64(f.P999), float64(f.Max)} {
			fmt.Fprint(w, right(Nanos(ns), 9))
		}
		fmt.Fprintf(w, "  %s (%.0f %%)\n", c.Stage, c.Share)
	}
	if len(r.Operations) == 0 {
		fmt.Fprintf(w, "%7.1fs  -\n", seconds)
	}
}

// size shows bytes in at most six columns.
func size(n uint32) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dK", n>>10)
	}
	return fmt.Sprint(n)
}

// Slow prints a slow request: when, what and how long, and below it what its stages took.
func (q *Request) Slow(w io.Writer, seconds float64) {
	fmt.Fprintf(w, "%8.3fs  %-12s%6s  sector %-12d%s", seconds, q.Op, size(q.Bytes), q.Sector, right(Nanos(float64(q.Total)), 8))
	if q.Tag >= 0 {
		fmt.Fprintf(w, "  queue/tag %d/%d", q.Queue, q.Tag)
	}
	if q.Status != 0 {
		fmt.Fprintf(w, "  failed, status %d", q.Status)
	}
	const columns = 92
	n := columns
	for _, s := range q.Stages {
		part := fmt.Sprintf("%s %s", s.Stage, Nanos(float64(s.Nanos)))
		if n += 2 + utf8.RuneCountInString(part); n > columns {
			fmt.Fprint(w, "\n\t", part)
			n = utf8.RuneCountInString(part)
			continue
		}
		fmt.Fprint(w, "  ", part)
	}
	fmt.Fprintln(w)
}

// Waiting prints requests in flight, oldest first: what it is, its age, where it is and since when.
func Waiting(w io.Writer, list []Request) {
	if len(list) == 0 {
		fmt.Fprintln(w, "nothing is in flight that was issued since the probes are there")
		return
	}
	fmt.Fprintf(w, "%-12s%8s  %-14s%10s  %-18s%9s  %s\n", "operation", "bytes", "sector", "age", "where", "since", "queue/tag")
	for _, q := range list {
		at := "-"
		if q.Tag >= 0 {
			at = fmt.Sprintf("%d/%d", q.Queue, q.Tag)
		}
		fmt.Fprintf(w, "%-12s%8s  %-14d%s  %-18s%s  %s\n", q.Op, size(q.Bytes), q.Sector, right(Nanos(float64(q.Total)), 10), q.Where, right(Nanos(float64(q.Waits)), 9), at)
	}
}

// ShowProbes prints what is attached, what it costs, and what is not and why; note, if there is one,
// is what counts instead.
func ShowProbes(w io.Writer, list []Probe, note string) {
	for i, p := range list {
		state := "attached"
		if !p.Attached {
			state = "not attached"
		}
		fmt.Fprintf(w, "%d: tp_btf %s  %s\n\tgives  %s\n", i, p.Tracepoint, state, p.Gives)
		if !p.Attached {
			fmt.Fprintf(w, "\twhy  %s\n", clip(p.Why, 87))
			continue
		}
		cost := "not measured"
		if p.Nanos > 0 {
			cost = fmt.Sprintf("%.0f ns each", p.PerRun)
		}
		fmt.Fprintf(w, "\truns  %d, %s, %d missed\n", p.Runs, cost, p.Missed)
	}
	if note != "" {
		fmt.Fprintf(w, "counted by %s\n", clip(note, 89))
	}
}

// Note prints what is not seen, if anything.
func Note(w io.Writer, note string) {
	if note != "" {
		fmt.Fprintf(w, "note: %s\n", clip(note, 94))
	}
}

// SlowEnd prints how many slow requests there were.
func SlowEnd(w io.Writer, slow, shed uint64, limit time.Duration, seconds float64) {
	fmt.Fprintf(w, "%d requests took %v or longer in %.1f s", slow, limit, seconds)
	if shed > 0 {
		fmt.Fprintf(w, "; %d of them are not shown: `rate N` shows up to N a second", shed)
	}
	fmt.Fprintln(w)
}
