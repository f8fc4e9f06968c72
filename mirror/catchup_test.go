package mirror

import (
	"math"
	"testing"
)

// A gauge begins with the average of what it has seen, and then forgets what is older than its smoothing.
func TestGauge(t *testing.T) {
	var g gauge
	now, v := int64(100*second), int64(7000)
	g.take(now, v)
	run := func(seconds, perSecond int64) {
		for range 4 * seconds {
			now += second / 4
			v += perSecond / 4
			g.take(now, v)
		}
	}
	near := func(what string, want float64) {
		t.Helper()
		if math.Abs(g.rate-want) > want*0.05+1 {
			t.Errorf("%s: %.1f per second, want %.1f", what, g.rate, want)
		}
	}
	run(1, 4000)
	near("after a second", 4000)
	if g.sure(now) {
		t.Error("sure after a second")
	}
	run(1, 0)
	near("the average of two seconds", 2000)
	run(30, 400)
	near("a new rate", 400)
	if !g.sure(now) {
		t.Error("not sure after half a minute")
	}
	now += 3600 * second
	g.take(now, v)
	near("after an hour without a look", 0)
	g.take(now, v) // the same instant again
	v -= 5000
	now += second
	g.take(now, v)
	if g.rate != 0 || g.sure(now) {
		t.Errorf("what went backwards begins anew: %.1f", g.rate)
	}
}
