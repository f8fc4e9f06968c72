package bpf

import (
	"math/bits"
	"slices"
)

// Buckets of a histogram: SubBuckets for each power of two, from 2^TopBits ns on one for all.
const (
	SubBuckets = 16
	TopBits    = 40
	Buckets    = (TopBits - 3) * SubBuckets
)

// Histogram counts durations in ns in log-linear buckets, each at most 6.25 % wide. Count, Sum,
// Min and Max are exact; of a difference of two, Min and Max are those of their buckets.
type Histogram struct {
	Count, Sum, Min, Max uint64
	Buckets              [Buckets]uint64
}

// Bucket is the index of the bucket that holds ns.
func Bucket(ns uint64) int {
	switch {
	case ns < SubBuckets:
		return int(ns)
	case ns>>TopBits != 0:
		return Buckets - 1
	}
	e := bits.Len64(ns) - 1
	return (e-3)*SubBuckets + int(ns>>(e-4))&(SubBuckets-1)
}

// Bounds are the smallest ns of bucket i and of the one after it.
func Bounds(i int) (low, high uint64) {
	at := func(i int) uint64 {
		if i < SubBuckets {
			return uint64(i)
		}
		return uint64(SubBuckets+i%SubBuckets) << (i/SubBuckets - 1)
	}
	return at(i), at(i + 1)
}

// Record counts ns.
func (h *Histogram) Record(ns uint64) {
	if h.Count == 0 || ns < h.Min {
		h.Min = ns
	}
	h.Max = max(h.Max, ns)
	h.Count++
	h.Sum += ns
	h.Buckets[Bucket(ns)]++
}

// Merge adds o to h.
func (h *Histogram) Merge(o *Histogram) {
	if o.Count == 0 {
		return
	}
	if h.Count == 0 || o.Min < h.Min {
		h.Min = o.Min
	}
	h.Max = max(h.Max, o.Max)
	h.Count += o.Count
	h.Sum += o.Sum
	for i, n := range o.Buckets {
		h.Buckets[i] += n
	}
}

// Since is what h counted after old, an earlier state of it.
func (h *Histogram) Since(old *Histogram) (d Histogram) {
	d.Count, d.Sum = h.Count-old.Count, h.Sum-old.Sum
	first, last := -1, -1
	for i := range h.Buckets {
		if d.Buckets[i] = h.Buckets[i] - old.Buckets[i]; d.Buckets[i] != 0 {
			if last = i; first < 0 {
				first = i
			}
		}
	}
	if first >= 0 {
		low, _ := Bounds(first)
		_, high := Bounds(last)
		d.Min, d.Max = max(low, h.Min), min(high-1, h.Max)
		if last == Buckets-1 {
			d.Max = h.Max
		}
	}
	return d
}

// Mean in ns, 0 of nothing.
func (h *Histogram) Mean() float64 {
	if h.Count == 0 {
		return 0
	}
	return float64(h.Sum) / float64(h.Count)
}

// Percentile is the duration in ns that p per cent of all do not exceed: the middle of the
// bucket where it lies, within Min and Max. 0 of nothing.
func (h *Histogram) Percentile(p float64) uint64 {
	var total uint64
	for _, n := range h.Buckets {
		total += n // not Count: a snapshot may catch a CPU between the two
	}
	if total == 0 {
		return 0
	}
	if p >= 100 {
		return h.Max
	}
	rank := uint64(p / 100 * float64(total))
	if float64(rank) < p/100*float64(total) || rank == 0 {
		rank++
	}
	i := slices.IndexFunc(h.Buckets[:], func(n uint64) bool {
		if rank <= n {
			return true
		}
		rank -= n
		return false
	})
	if i == Buckets-1 {
		return h.Max
	}
	low, high := Bounds(i)
	return min(max(low+(high-low)/2, h.Min), h.Max)
}
