package picture

import (
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/robib-ublk/robib/bpf"
)

var black = color.RGBA{A: 255}

// colors of stages: those of Okabe and Ito, which the colour-blind tell apart, two greys and a brown.
var colors = map[bpf.Stage]color.Color{
	bpf.StageQueue:    color.RGBA{0x99, 0x99, 0x99, 255},
	bpf.StageDevice:   color.RGBA{0x56, 0xb4, 0xe9, 255},
	bpf.StageDispatch: color.RGBA{0xe6, 0x9f, 0x00, 255},
	bpf.StageServer:   color.RGBA{0x8c, 0x56, 0x4b, 255},
	bpf.StageLog:      color.RGBA{0x00, 0x9e, 0x73, 255},
	bpf.StageData:     color.RGBA{0xcc, 0x79, 0xa7, 255},
	bpf.StageSent:     color.RGBA{0xf0, 0xe4, 0x42, 255},
	bpf.StageAcked:    color.RGBA{0xd5, 0x5e, 0x00, 255},
	bpf.StageCommit:   color.RGBA{0x00, 0x72, 0xb2, 255},
	bpf.StageComplete: color.RGBA{0x33, 0x33, 0x33, 255},
}

// ramp is what shade walks along, from few to many.
var ramp = []color.RGBA{{0xff, 0xf3, 0xb0, 255}, {0xfe, 0xc4, 0x4f, 255}, {0xf0, 0x6f, 0x20, 255}, {0xb8, 0x1d, 0x2a, 255}, {0x55, 0x00, 0x30, 255}}

// shade is the colour of a cell of n requests where the fullest has most: logarithmic, so that a few slow
// requests are seen beside many fast ones.
func shade(n, most float64) color.Color {
	at := 0.0
	if most > 1 {
		at = math.Log(n) / math.Log(most) * float64(len(ramp)-1)
	}
	i := min(int(at), len(ramp)-2)
	a, b, f := ramp[i], ramp[i+1], at-float64(i)
	mix := func(x, y uint8) uint8 { return uint8(float64(x)*(1-f) + float64(y)*f + 0.5) }
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 255}
}

// shades are the counts that a legend shows: powers of ten, and the most.
func shades(most uint64) (list []uint64) {
	for n := uint64(1); n < most && len(list) < 19; n *= 10 {
		list = append(list, n)
	}
	return append(list, most)
}

// block is a legend's square.
type block struct{ color.Color }

// Thumbnail fills the square.
func (b block) Thumbnail(c *draw.Canvas) {
	fill(c, b.Color, c.Min, c.Max)
}

func fill(c *draw.Canvas, with color.Color, min, max vg.Point) {
	c.SetColor(with)
	c.Fill(vg.Rectangle{Min: min, Max: max}.Path())
}

// seam is by how much a rectangle goes under its neighbours, so that no white shines through.
const seam = vg.Length(0.6)

// heat is the heat map of one operation.
type heat struct {
	op      bpf.Op
	columns []column
	most    float64
}

// Plot fills the cells that are not empty.
func (h *heat) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for i := range h.columns {
		col := &h.columns[i]
		for _, r := range col.ops[h.op].rows {
			low, high := max(float64(r.low), p.Y.Min), min(float64(r.high), p.Y.Max)
			fill(&c, shade(float64(r.count), h.most), vg.Point{X: x(col.from), Y: y(low)}, vg.Point{X: min(x(col.to)+seam, c.Max.X), Y: min(y(high)+seam, c.Max.Y)})
		}
	}
}

// stack is the mean time of one operation's stages.
type stack struct {
	op      bpf.Op
	columns []column
	parts   []bpf.Stage // from below
	per     float64     // ns of the axis' unit
}

// height of a column, ns.
func (b *stack) height(c *counted) (ns float64) {
	for _, st := range b.parts {
		ns += b.mean(c, st)
	}
	return ns
}

func (b *stack) mean(c *counted, st bpf.Stage) float64 {
	if c.count == 0 {
		return 0
	}
	return float64(c.part(st)) / float64(c.count)
}

// Plot fills a staircase for each stage, from the axis to the stage's top: each hides the lower part of
// the one above it, so that there are no seams.
func (b *stack) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for top := len(b.parts); top > 0; top-- {
		below := stack{op: b.op, parts: b.parts[:top]}
		var stairs []vg.Point
		end := func() {
			if n := len(stairs); n > 0 {
				c.FillPolygon(colors[b.parts[top-1]], append(stairs, vg.Point{X: stairs[n-1].X, Y: y(0)}, vg.Point{X: stairs[0].X, Y: y(0)}))
			}
			stairs = nil
		}
		for i := range b.columns {
			col := &b.columns[i]
			h := y(below.height(&col.ops[b.op]) / b.per)
			if col.ops[b.op].count == 0 {
				end()
				continue
			}
			stairs = append(stairs, vg.Point{X: x(col.from), Y: h}, vg.Point{X: x(col.to), Y: h})
		}
		end()
	}
}

// logRange widens a range to whole steps of 1, 2 and 5, and to a decade at least.
func logRange(low, high float64) (float64, float64) {
	for high/low < 10 {
		low, high = max(low/1.5, 1), high*1.5
	}
	down, up := low, high
	for _, m := range []float64{1, 2, 5} {
		at := math.Pow(10, math.Floor(math.Log10(low)))
		if at*m <= low {
			down = at * m
		}
	}
	for _, m := range []float64{10, 5, 2, 1} {
		at := math.Pow(10, math.Floor(math.Log10(high)))
		if at*m >= high {
			up = at * m
		}
	}
	return down, up
}

// logTicks names decades, and 2 and 5 of each where there are few; the others are ticks without a name.
func logTicks(low, high float64) (ticks []plot.Tick) {
	few := high/low < 1001
	for at := math.Pow(10, math.Floor(math.Log10(low))); at <= high*1.001; at *= 10 {
		for m := 1.0; m < 10; m++ {
			v := at * m
			if v < low*0.999 || v > high*1.001 {
				continue
			}
			t := plot.Tick{Value: v}
			if m == 1 || few && (m == 2 || m == 5) {
				t.Label = short(v)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// roundTicks are whole steps of 1, 2 or 5, at most ten.
func roundTicks(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10(high-low))-1)
	for _, m := range []float64{2, 2.5, 2} { // to 2, 5 and 10
		if (high-low)/step > 10 {
			step *= m
		}
	}
	for i := math.Ceil(low / step); i*step <= high; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: strconv.FormatFloat(i*step, 'g', 6, 64)})
	}
	return ticks
}

// short is a round number of ns in its unit.
func short(ns float64) string {
	unit, per := unitOf(ns * 1.0001)
	return strconv.FormatFloat(math.Round(ns/per), 'f', -1, 64) + " " + unit
}
