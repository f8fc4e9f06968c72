package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/robib-ublk/robib/bpf"
)

// Of a native histogram: 8 buckets for each power of two. Ours are linear within a power of two, so
// that their bounds fall between those; each goes as a whole to where its middle lies. Count and sum
// stay exact, and a percentile is within 12.5 %.
const nativeSchema = 3

// Classic buckets end at each power of two ns from 1 µs to 17 s, where ours end too: they are exact
// (but for durations of just that many ns, which count above).
const (
	classicFrom = 10
	classicTo   = 34
)

// nativeIndex is the native bucket of each of ours.
var nativeIndex = func() (t [bpf.Buckets]int) {
	for i := 1; i < bpf.Buckets; i++ {
		low, high := bpf.Bounds(i)
		middle := float64(low+high-1) / 2e9
		if i == bpf.Buckets-1 {
			middle = float64(low) / 1e9 // it has no end
		}
		t[i] = int(math.Ceil(math.Log2(middle) * (1 << nativeSchema)))
	}
	return t
}()

// histogram is a metric in both formats.
type histogram struct {
	prometheus.Metric // native
	classic           []*dto.Bucket
}

// Write fills in both.
func (h histogram) Write(m *dto.Metric) error {
	if err := h.Metric.Write(m); err != nil {
		return err
	}
	m.Histogram.Bucket = h.classic
	return nil
}

// newHistogram makes a metric of h, in seconds.
func newHistogram(d *prometheus.Desc, h *bpf.Histogram, begun time.Time, labels ...string) (prometheus.Metric, error) {
	native := map[int]int64{}
	var total uint64 // not h.Count: a snapshot may catch a CPU between the two
	var below [classicTo + 1]uint64
	k := classicFrom
	for i, n := range h.Buckets {
		for low, _ := bpf.Bounds(i); k <= classicTo && low >= 1<<k; k++ {
			below[k] = total
		}
		if n == 0 {
			continue
		}
		total += n
		if i > 0 { // 0 ns is the zero bucket's
			native[nativeIndex[i]] += int64(n)
		}
	}
	sum := float64(h.Sum) / 1e9
	m, err := prometheus.NewConstNativeHistogram(d, total, sum, native, nil, h.Buckets[0], nativeSchema, prometheus.DefNativeHistogramZeroThreshold, begun, labels...)
	if err != nil {
		return nil, err
	}
	classic := make([]*dto.Bucket, 0, classicTo-classicFrom+1)
	for k := classicFrom; k <= classicTo; k++ {
		end := float64(int64(1)<<k) / 1e9
		classic = append(classic, &dto.Bucket{UpperBound: &end, CumulativeCount: &below[k]})
	}
	return histogram{m, classic}, nil
}
