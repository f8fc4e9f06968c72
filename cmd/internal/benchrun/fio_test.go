package benchrun

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// fioJSON is what fio 3.33 prints, less what is not read.
const fioJSON = `fio: this platform does not support something
{
  "fio version" : "fio-3.33",
  "jobs" : [
    {
      "jobname" : "mix",
      "error" : %d,
      "read" : {
        "io_bytes" : 12288000, "runtime" : 250, "total_ios" : 3000,
        "lat_ns" : { "min" : 60866, "max" : 533520, "mean" : 30000.5, "N" : 3000, "percentile" : { "50.000000" : 98816, "99.000000" : 41000, "99.900000" : 528384 } }
      },
      "write" : {
        "io_bytes" : 4096000, "runtime" : 240, "total_ios" : 1000,
        "lat_ns" : { "mean" : 70000, "percentile" : { "99.000000" : 90000 } }
      },
      "trim" : { "io_bytes" : 0, "runtime" : 0, "total_ios" : 0 }
    }
  ]
}`

func near(a, b float64) bool { return math.Abs(a-b) < 0.01 }

func TestParseFio(t *testing.T) {
	r, err := parseFio(fmt.Appendf(nil, fioJSON, 0))
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 4000 || !near(r.IOPS, 16000) || !near(r.MBPerSecond, 65.536) || !near(r.MeanMicros, 40) || !near(r.P99Micros, 90) {
		t.Errorf("%+v", r)
	}
}

func TestParseFioRefuses(t *testing.T) {
	for _, bad := range []struct{ out, want string }{
		{"fio: no such device\n", "no JSON"},
		{`{"jobs": [`, "JSON"},
		{`{"jobs": []}`, "0 jobs"},
		{`{"jobs": [{"error": 0}]}`, "no request"},
		{fmt.Sprintf(fioJSON, 5), "error 5"},
	} {
		if _, err := parseFio([]byte(bad.out)); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%.20q: %v, want %q", bad.out, err, bad.want)
		}
	}
}

// log makes a latency log with a request every so many ms, one step after another.
func log(steps ...[2]int) string {
	var b strings.Builder
	at := 0
	for _, s := range steps {
		for range s[0] {
			at += s[1]
			fmt.Fprintf(&b, "%d, %d, 1, 4096, 0\n", at, s[1]*1_000_000)
		}
	}
	return b.String()
}

func TestParseCourse(t *testing.T) {
	// 1000 requests in 1 s, 1000 in 2 s, 1000 in 10 s, 1000 in 1 s.
	c, err := parseCourse(strings.NewReader(log([2]int{1000, 1}, [2]int{1000, 2}, [2]int{1000, 10}, [2]int{1000, 1})))
	if err != nil {
		t.Fatal(err)
	}
	if c.Quarters != [4]float64{1000, 500, 100, 1000} || !near(c.Later, 3000/13.0) || c.LowestSecond != 100 || c.LongestMillis != 10 {
		t.Errorf("%+v", c)
	}
}

func TestParseCourseShort(t *testing.T) {
	c, err := parseCourse(strings.NewReader(log([2]int{400, 2})))
	if err != nil {
		t.Fatal(err)
	}
	if c.LowestSecond >= 0 || c.Quarters[3] != 500 {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"", "1, 2, 1, 4096, 0\n", "x, 1\n1, 1\n1, 1\n1, 1\n", "7\n"} {
		if _, err := parseCourse(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// A stall that no calendar second shows in full is found all the same.
func TestLowestSecondIsAnySecond(t *testing.T) {
	var at []int64
	for ms := int64(1); ms <= 3000; ms++ {
		if ms <= 500 || ms > 1500 {
			at = append(at, ms)
		}
	}
	if n := lowestSecond(at); n != 0 {
		t.Errorf("%v, want 0", n)
	}
}

func TestParseWorkloads(t *testing.T) {
	w, err := ParseWorkloads("rr1, rw32 sustained")
	if err != nil || !slices.Equal(w, []string{"rr1", "rw32", "sustained"}) {
		t.Error(w, err)
	}
	if _, err := ParseWorkloads("rr1,rr2"); err == nil || !strings.Contains(err.Error(), `"rr2"`) {
		t.Error(err)
	}
	for _, n := range DefaultWorkloads() {
		if workload(n) == nil || !slices.Contains(runOrder, n) {
			t.Errorf("%s: no such workload", n)
		}
	}
	if len(runOrder) != len(workloads) {
		t.Error("a workload without a place in the order")
	}
}
