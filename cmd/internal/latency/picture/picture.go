package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	_ "gonum.org/v1/plot/vg/vgimg" // png
	_ "gonum.org/v1/plot/vg/vgsvg" // svg

	"github.com/robib-ublk/robib/bpf"
)

// Formats are what Draw can write, by the end of a file's name.
var Formats = []string{"svg", "png"}

// ErrNothing says that no requests came.
var ErrNothing = errors.New("nothing came while this looked: there is nothing to draw")

// Sizes of a picture: one row of two plots for each operation.
const (
	plotWidth   = 14 * vg.Centimeter
	plotHeight  = 9 * vg.Centimeter
	legendWidth = 2.6 * vg.Centimeter
	margin      = 0.5 * vg.Centimeter
)

// Draw writes a picture of s in one of Formats: for each operation that there was, its latency as a
// heat map, and beside it the mean time of each stage.
func (s *Series) Draw(w io.Writer, format string) error {
	var ops []bpf.Op
	for op := range bpf.Ops {
		if s.total(op).count > 0 {
			ops = append(ops, op)
		}
	}
	if len(ops) == 0 {
		return ErrNothing
	}
	width, height := 2*(plotWidth+legendWidth+margin)+margin, vg.Length(len(ops))*(plotHeight+margin)+margin
	canvas, err := draw.NewFormattedCanvas(width, height, format)
	if err != nil {
		return err
	}
	all := draw.New(canvas)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	for i, op := range ops {
		top := height - margin - vg.Length(i)*(plotHeight+margin)
		for k, panel := range []func(bpf.Op) (*plot.Plot, *plot.Legend, error){s.heatMap, s.stages} {
			p, legend, err := panel(op)
			if err != nil {
				return err
			}
			left := margin + vg.Length(k)*(plotWidth+legendWidth+margin)
			area := draw.Canvas{Canvas: all.Canvas, Rectangle: vg.Rectangle{Min: vg.Point{X: left, Y: top - plotHeight}, Max: vg.Point{X: left + plotWidth + legendWidth, Y: top}}}
			p.Draw(draw.Crop(area, 0, -legendWidth, 0, 0))
			legend.Draw(draw.Crop(area, plotWidth+0.3*vg.Centimeter, 0, 0, -vg.Centimeter))
		}
	}
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	_, err = w.Write(bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte(families)))
	return err
}

// families are what an SVG may be shown in: fonts of the width that it was laid out with, then any.
const families = "font-family:Liberation Sans,Arial,Helvetica,sans-serif"

// newPlot is a plot over time, with what all have in common.
func (s *Series) newPlot(title string) (*plot.Plot, *plot.Legend) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = "time (s)"
	p.X.Min, p.X.Max = s.columns[0].from, s.columns[len(s.columns)-1].to
	p.X.Tick.Marker = plot.TickerFunc(roundTicks)
	p.Title.Padding = 3 * vg.Millimeter
	sans := func(size vg.Length, styles ...*draw.TextStyle) {
		for _, t := range styles {
			t.Font.Variant, t.Font.Size = "Sans", size
		}
	}
	legend := plot.NewLegend()
	sans(11, &p.Title.TextStyle)
	sans(10, &p.X.Label.TextStyle, &p.Y.Label.TextStyle)
	sans(9, &p.X.Tick.Label, &p.Y.Tick.Label, &legend.TextStyle)
	p.X.Label.Padding, p.Y.Label.Padding = vg.Millimeter, vg.Millimeter
	p.X.Padding, p.Y.Padding = 0, 0
	legend.Top, legend.Left = true, true
	legend.Padding = 1.2 * vg.Millimeter
	legend.ThumbnailWidth = 5 * vg.Millimeter
	return p, &legend
}

// heatMap draws how many requests took how long, and the median and the 99th percentile.
func (s *Series) heatMap(op bpf.Op) (*plot.Plot, *plot.Legend, error) {
	t := s.total(op)
	p, legend := s.newPlot(fmt.Sprintf("%s: latency of %d %s requests", s.Name, t.count, op))
	p.Y.Label.Text = "latency"
	p.Y.Scale = plot.LogScale{}
	var low, high, most uint64 = math.MaxUint64, 0, 0
	h := &heat{op: op, columns: s.columns}
	var p50, p99 [][]plotter.XY
	for i := range s.columns {
		c := &s.columns[i]
		x := &c.ops[op]
		for _, r := range x.rows {
			low, high, most = min(low, r.low), max(high, r.high), max(most, r.count)
		}
		p50, p99 = step(p50, c, x.p50), step(p99, c, x.p99)
	}
	p.Y.Min, p.Y.Max = logRange(float64(low), float64(high))
	p.Y.Tick.Marker = plot.TickerFunc(logTicks)
	h.most = float64(most)
	p.Add(h)
	for _, l := range []struct {
		name  string
		steps [][]plotter.XY
		style draw.LineStyle
	}{{"p99", p99, draw.LineStyle{Color: black, Width: vg.Points(1), Dashes: []vg.Length{3, 2}}}, {"median", p50, draw.LineStyle{Color: black, Width: vg.Points(1.2)}}} {
		for i, xys := range l.steps {
			line, err := plotter.NewLine(plotter.XYs(xys))
			if err != nil {
				return nil, nil, err
			}
			line.LineStyle = l.style
			p.Add(line)
			if i == 0 {
				legend.Add(l.name, line)
			}
		}
	}
	legend.Add("requests:")
	for _, n := range shades(most) {
		legend.Add(fmt.Sprint(n), block{shade(float64(n), h.most)})
	}
	return p, legend, nil
}

// step continues the last of lines over column c at ns, or begins a new one behind a gap.
func step(lines [][]plotter.XY, c *column, ns uint64) [][]plotter.XY {
	if ns == 0 {
		return lines
	}
	n := len(lines)
	if n == 0 || lines[n-1][len(lines[n-1])-1].X != c.from {
		lines = append(lines, nil)
		n++
	}
	lines[n-1] = append(lines[n-1], plotter.XY{X: c.from, Y: float64(ns)}, plotter.XY{X: c.to, Y: float64(ns)})
	return lines
}

// stages draws the mean time of each stage, one on the other.
func (s *Series) stages(op bpf.Op) (*plot.Plot, *plot.Legend, error) {
	t := s.total(op)
	mean := float64(t.sum) / float64(t.count)
	unit, per := unitOf(mean)
	p, legend := s.newPlot(fmt.Sprintf("where the time of a %s goes: mean %.3g %s", op, mean/per, unit))
	b := &stack{op: op, columns: s.columns}
	for _, st := range parts {
		if float64(t.part(st)) >= 0.001*float64(t.sum) { // less is not seen
			b.parts = append(b.parts, st)
		}
	}
	var most float64
	for i := range s.columns {
		most = max(most, b.height(&s.columns[i].ops[op]))
	}
	unit, per = unitOf(most)
	b.per = per
	p.Y.Label.Text = "mean time per request (" + unit + ")"
	p.Y.Min, p.Y.Max = 0, most/per*1.05
	p.Y.Tick.Marker = plot.TickerFunc(roundTicks)
	p.Add(b)
	for _, st := range slices.Backward(b.parts) { // as they lie
		legend.Add(st.String(), block{colors[st]})
	}
	return p, legend, nil
}

// unitOf chooses the unit in which ns is a number that is easily read.
func unitOf(ns float64) (name string, per float64) {
	switch {
	case ns < 1e3:
		return "ns", 1
	case ns < 1e6:
		return "µs", 1e3
	case ns < 1e9:
		return "ms", 1e6
	}
	return "s", 1e9
}
