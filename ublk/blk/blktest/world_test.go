package blktest

import (
	"errors"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// history is a load with faults and a power cut; it gives the trace of all that happened.
func history(t *testing.T, seed uint64) uint64 {
	w := NewWorld(seed)
	d := NewDisk(w, "d", 1<<20, 100_000)
	d.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes = true, true })
	o := NewOracle(1 << 20)
	o.Volatile = true
	for life := range 2 {
		l := NewWorkload(w, NewCheck(d, t.Errorf), o, 16, t.Errorf)
		l.Left, l.Discards, l.Zeroes, l.ErrorsOK = 150, 5, 5, true
		d.FailNth(blk.Read, 10, 5, false)
		d.SlowNth(blk.Write, 20, 1e6)
		if err := l.Run(w.Drive); err != nil {
			t.Fatal(err)
		}
		if life == 0 {
			d = d.Crash()
			o.Crash()
			if err := o.Pin(d.Bytes(), 0); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	return w.Trace
}

func TestOneSeedOneHistory(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(20) {
		a, b := history(t, seed), history(t, seed)
		if a != b {
			t.Fatalf("seed %d: two histories", seed)
		}
		seen[a] = true
	}
	if len(seen) != 20 {
		t.Fatalf("%d histories of 20 seeds", len(seen))
	}
}

// Events run in time order, several of them in some steps, and at equal times in an order that
// the seed decides.
func TestSteps(t *testing.T) {
	firsts := map[int]bool{}
	batches := map[int]bool{}
	for seed := range uint64(30) {
		w := NewWorld(seed)
		start := w.Now
		var ran []int
		for i := range 4 {
			w.After(10, func() { ran = append(ran, i) })
			w.After(20, func() { ran = append(ran, 10+i) })
		}
		for n := 0; ; n = len(ran) {
			if _, err := w.Drive(); err != nil {
				if !errors.Is(err, ErrQuiet) {
					t.Fatal(err)
				}
				break
			}
			batches[len(ran)-n] = true
		}
		if len(ran) != 8 || w.Now != start+20 {
			t.Fatalf("%v at %d", ran, w.Now-start)
		}
		for i, x := range ran {
			if x/10 != i/4 {
				t.Fatalf("not in time order: %v", ran)
			}
		}
		firsts[ran[0]] = true
	}
	if len(firsts) != 4 || len(batches) != 4 || batches[0] {
		t.Fatalf("first events %v, batch sizes %v", firsts, batches)
	}
}

// A wake that lies before the next event moves time only that far.
func TestTurn(t *testing.T) {
	w := NewWorld(1)
	start, ran := w.Now, 0
	if w.Turn(blk.Never) {
		t.Fatal("a quiet world turned")
	}
	w.After(100, func() { ran++ })
	if !w.Turn(start+50) || ran != 0 || w.Now != start+50 {
		t.Fatal(ran, w.Now-start)
	}
	if !w.Turn(start+200) || ran != 1 || w.Now != start+100 {
		t.Fatal(ran, w.Now-start)
	}
}

// Wall time may jump, also back; monotonic time never does.
func TestWallTimeJumps(t *testing.T) {
	w := NewWorld(1)
	a := w.Time()
	w.Jump(-3e17)
	if b := w.Time(); b.Mono != a.Mono || b.Wall != a.Wall-3e17 {
		t.Fatal(a, b)
	}
}
