package dcd

import (
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"testing"
)

// The map must agree with a plain table of sectors over long random histories, also when it is
// nearly full and clusters wrap around its end.
func TestIndexAgainstATable(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		x, err := newIndex(100)
		if err != nil {
			t.Fatal(err)
		}
		const blocks = 60
		want := [blocks][sectors]uint32{}
		for step := range 20000 {
			b, base := uint32(r.IntN(blocks)), uint32(step+1)*8
			first := r.IntN(sectors)
			n := 1 + r.IntN(sectors-first)
			if r.IntN(3) == 0 {
				first, n = 0, sectors
			}
			mask := uint8((1<<n - 1) << first)
			switch {
			case r.IntN(3) > 0 && x.room(1):
				x.put(b, mask, base)
				for s := first; s < first+n; s++ {
					want[b][s] = base
				}
			default:
				v := want[b][first]
				x.clear(b, mask, v)
				for s := first; s < first+n; s++ {
					if v != 0 && want[b][s] == v {
						want[b][s] = 0
					}
				}
			}
			if step%50 != 0 {
				continue
			}
			entries := 0
			for b := range uint32(blocks) {
				var got [sectors]uint32
				for i := x.first(b); i >= 0; i = x.next(b, i) {
					entries++
					for s := range sectors {
						if x.masks[i]&(1<<s) != 0 {
							if got[s] != 0 {
								t.Fatalf("seed %d step %d: two entries for one sector", seed, step)
							}
							got[s] = x.bases[i]
						}
					}
				}
				if got != want[b] {
					t.Fatalf("seed %d step %d block %d: %v, want %v", seed, step, b, got, want[b])
				}
			}
			if entries != x.n {
				t.Fatalf("seed %d: %d entries, counted %d", seed, entries, x.n)
			}
		}
		x.close()
	}
}

// 4-KiB writes take at most 16 bytes a block at the fullest the map gets, and under 24 when it
// is as empty as rounding to a power of two makes it.
func TestIndexBytesPerBlock(t *testing.T) {
	x, err := newIndex(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	if b := float64(len(x.mem)) / float64(x.limit); b > 16 {
		t.Fatalf("%.1f bytes a block", b)
	}
}

// A map of ten million blocks is no work for the garbage collector: it lies outside the heap, and a
// collection scans no more than with an empty one.
func TestCollectorDoesNotSeeTheMap(t *testing.T) {
	const blocks = 10_000_000
	scanned := func() uint64 {
		runtime.GC()
		m := []metrics.Sample{{Name: "/gc/scan/total:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(m)
		return m[0].Value.Uint64() + m[1].Value.Uint64()
	}
	before := scanned()
	x, err := newIndex(blocks)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	for b := range uint32(blocks) {
		x.put(b, fullMask, 8*b)
	}
	if x.n != blocks || len(x.mem) > 16*blocks {
		t.Fatalf("%d entries in %d bytes", x.n, len(x.mem))
	}
	if after := scanned(); after > before+1<<20 {
		t.Errorf("a collection sees %d bytes more", after-before)
	}
}

func BenchmarkIndexPut(b *testing.B) {
	x, err := newIndex(1 << 20)
	if err != nil {
		b.Fatal(err)
	}
	defer x.close()
	r := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		x.put(r.Uint32N(1<<19), fullMask, r.Uint32())
	}
}
