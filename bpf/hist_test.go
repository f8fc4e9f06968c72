package bpf

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestBucketsTile(t *testing.T) {
	var last uint64
	for i := range Buckets {
		low, high := Bounds(i)
		if low != last || high <= low {
			t.Fatalf("bucket %d is [%d, %d), the one before ends at %d", i, low, high, last)
		}
		if i >= SubBuckets && float64(high-low) > 0.0625*float64(low) {
			t.Fatalf("bucket %d is %d wide at %d", i, high-low, low)
		}
		if Bucket(low) != i || Bucket(high-1) != i {
			t.Fatalf("bucket %d holds neither %d nor %d", i, low, high-1)
		}
		last = high
	}
	if last != 1<<TopBits || Bucket(1<<63) != Buckets-1 {
		t.Fatalf("the last bucket ends at %d", last)
	}
}

func TestPercentile(t *testing.T) {
	var h Histogram
	if h.Percentile(99) != 0 || h.Mean() != 0 {
		t.Fatal("of nothing")
	}
	r := rand.New(rand.NewPCG(1, 2))
	all := make([]uint64, 20000)
	for i := range all {
		all[i] = r.Uint64N(1 << (4 + r.Uint64N(30)))
		h.Record(all[i])
	}
	slices.Sort(all)
	for _, p := range []float64{0, 1, 50, 90, 99, 99.9, 99.99, 100} {
		want := all[max(int(p/100*float64(len(all)))-1, 0)]
		got := h.Percentile(p)
		if d := float64(got) - float64(want); d > 0.0625*float64(want)+1 || -d > 0.0625*float64(want)+1 {
			t.Errorf("p%v is %d, want %d", p, got, want)
		}
	}
	if h.Min != all[0] || h.Max != all[len(all)-1] || h.Percentile(100) != h.Max {
		t.Error("ends")
	}
}

func TestMergeAndSince(t *testing.T) {
	var a, b, both Histogram
	for i := range uint64(3000) {
		a.Record(i * 7)
		both.Record(i * 7)
	}
	before := both
	for i := range uint64(500) {
		b.Record(1<<41 + i)
		both.Record(1<<41 + i)
	}
	b.Record(0)
	both.Record(0)
	sum := a
	sum.Merge(&b)
	sum.Merge(&Histogram{})
	if sum != both {
		t.Fatal("the merged one is not that of all")
	}
	d := both.Since(&before)
	if d != b {
		t.Fatalf("difference %d of [%d, %d], want %d of [%d, %d]", d.Count, d.Min, d.Max, b.Count, b.Min, b.Max)
	}
}

// The committed objects are those of the sources here.
func TestObjectsAreFresh(t *testing.T) {
	h := sha256.New()
	for _, name := range []string{"kernel.bpf.h", "latency.bpf.c"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(src)
	}
	want, err := os.ReadFile("latency.sha256")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != strings.TrimSpace(string(want)) {
		t.Fatal("latency_bpfel.o is stale: go generate ./bpf")
	}
}
