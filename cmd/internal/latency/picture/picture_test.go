package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/bpf"
)

var keep = flag.String("keep", "", "also write the pictures to this directory")

// mirrored is a made-up volume: its link is slow from the 20th to the 30th second, and nothing comes from
// the 40th to the 45th.
func mirrored() *Series {
	s := &Series{Name: "sdc"}
	r := rand.New(rand.NewPCG(1, 2))
	for at := range 60 {
		c := &bpf.Snapshot{}
		if at < 40 || at >= 45 {
			for range 3000 {
				var total uint64
				for _, x := range []struct {
					st   bpf.Stage
					mean float64
				}{{bpf.StageQueue, 4e3}, {bpf.StageDispatch, 9e3}, {bpf.StageLog, 8e4}, {bpf.StageCommit, 1.2e5}, {bpf.StageComplete, 1e4}} {
					if x.st == bpf.StageCommit && at >= 20 && at < 30 {
						x.mean *= 20
					}
					ns := uint64(x.mean/2 + r.ExpFloat64()*x.mean/2)
					c.Hists[bpf.Write][x.st].Record(ns)
					total += ns
				}
				c.Hists[bpf.Write][bpf.StageTotal].Record(total)
				c.Hists[bpf.Write][bpf.StageDevice].Record(total - 4e3)
			}
		}
		s.Add(float64(at), float64(at+1), c)
	}
	return s
}

// few is one request of a device without a server, in one short interval.
func few() *Series {
	s, c := &Series{Name: "/dev/loop0"}, &bpf.Snapshot{}
	c.Hists[bpf.Flush][bpf.StageTotal].Record(1234)
	c.Hists[bpf.Flush][bpf.StageDevice].Record(1234)
	s.Add(0, 0.01, c)
	return s
}

func drawn(t *testing.T, name string, s *Series, format string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Draw(&b, format); err != nil {
		t.Fatal(name, err)
	}
	if *keep != "" {
		if err := os.WriteFile(*keep+"/"+name+"."+format, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// texts are the words in a picture.
func texts(t *testing.T, svg []byte) (all []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	inside := false
	for {
		k, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch k := k.(type) {
		case xml.StartElement:
			inside = k.Name.Local == "text"
		case xml.EndElement:
			inside = false
		case xml.CharData:
			if inside {
				all = append(all, string(k))
			}
		}
	}
}

func TestPictures(t *testing.T) {
	for name, x := range map[string]struct {
		s    *Series
		says []string
		not  []string
	}{
		"mirrored": {mirrored(), []string{"sdc: latency of 165000 write requests", "time (s)", "60", "latency", "100 µs", "10 ms", "mean time per request (ms)", "median", "p99",
			"queue", "dispatch", "log", "commit", "complete", "100", "1", "2"}, []string{"device", "data", "peer_sent", "read"}},
		"few": {few(), []string{"/dev/loop0: latency of 1 flush requests", "0.01", "1 µs", "device", "mean time per request (µs)", "where the time of a flush goes: mean 1.23 µs"}, []string{"queue", "log"}},
	} {
		all := texts(t, drawn(t, name, x.s, "svg"))
		for _, want := range x.says {
			if !contains(all, want) {
				t.Errorf("%s: no %q in %q", name, want, all)
			}
		}
		for _, no := range x.not {
			if contains(all, no) {
				t.Errorf("%s: %q in %q", name, no, all)
			}
		}
		img, err := png.Decode(bytes.NewReader(drawn(t, name, x.s, "png")))
		if err != nil {
			t.Fatal(name, err)
		}
		if b := img.Bounds(); b.Dx() < 1000 || b.Dy() < 300 {
			t.Errorf("%s: %v", name, b)
		}
	}
	if err := (&Series{columns: make([]column, 3)}).Draw(io.Discard, "svg"); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
	if err := few().Draw(io.Discard, "doc"); err == nil || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}

func contains(list []string, text string) bool {
	for _, s := range list {
		if s == text {
			return true
		}
	}
	return false
}

// No request is lost between histogram and cells, and cells lie side by side.
func TestRows(t *testing.T) {
	var h bpf.Histogram
	for e := range 45 {
		h.Record(1 << e)
		h.Record(1<<e - 1)
	}
	var n, last uint64
	for _, r := range rows(&h) {
		if n += r.count; r.low < max(last, 1) || r.high <= r.low || float64(r.high)/float64(r.low) > 4 {
			t.Errorf("%+v after %d", r, last)
		}
		last = r.high
	}
	if n != h.Count {
		t.Errorf("%d of %d", n, h.Count)
	}
}

// The stages of a request add up to its time, with a server's stamps and without, and when only some have them.
func TestPartsAddUp(t *testing.T) {
	c := counted{count: 3, sum: 310}
	c.stages[bpf.StageQueue], c.stages[bpf.StageDevice] = 10, 300
	add := func() (n uint64) {
		for _, st := range parts {
			n += c.part(st)
		}
		return n
	}
	for _, x := range []uint64{0, 50, 150} {
		c.stages[bpf.StageLog], c.stages[bpf.StageCommit], c.stages[bpf.StageRing] = x, x, 7
		if add() != 310 || c.part(bpf.StageDevice) != 300-2*x {
			t.Errorf("stages of %d: %d, device %d", x, add(), c.part(bpf.StageDevice))
		}
	}
	c.stages[bpf.StageLog]++ // as when a snapshot catches a request between two histograms
	if c.part(bpf.StageDevice) != 0 {
		t.Error(c.part(bpf.StageDevice))
	}
}

func TestAxes(t *testing.T) {
	for _, x := range []struct{ low, high float64 }{{1, 2}, {1, 1e9}, {1024, 1088}, {5e3, 6e3}, {9.9e5, 1.1e6}, {1e6, 1e7}, {30, 1e12}} {
		low, high := logRange(x.low, x.high)
		named := 0
		for _, k := range logTicks(low, high) {
			if k.Label != "" {
				named++
			}
			if k.Value < low*0.99 || k.Value > high*1.01 {
				t.Errorf("%v: a tick at %v", x, k.Value)
			}
		}
		if low > x.low || high < x.high || low < x.low/25 && low > 1 || high > 25*x.high || named < 2 || named > 13 {
			t.Errorf("%v: from %v to %v, %d ticks have names", x, low, high, named)
		}
	}
	for _, x := range [][2]float64{{0, 60}, {0, 0.01}, {0, 1}, {0, 59.98}, {0, 3600}, {0, 17}, {0, 99999}} {
		ticks := roundTicks(x[0], x[1])
		for _, k := range ticks {
			if k.Value < x[0] || k.Value > x[1] || len(k.Label) > 6 {
				t.Errorf("%v: %+v", x, k)
			}
		}
		if len(ticks) < 4 || len(ticks) > 11 {
			t.Errorf("%v: %d ticks", x, len(ticks))
		}
	}
	if a, b, c := shade(1, 1000), shade(10, 1000), shade(1000, 1000); a == b || b == c || c != ramp[len(ramp)-1] || shade(1, 1) != ramp[0] {
		t.Error(a, b, c)
	}
	if s := shades(math.MaxUint64); len(s) != 20 || s[19] != math.MaxUint64 {
		t.Error(s)
	}
}
