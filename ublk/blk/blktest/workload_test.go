package blktest

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// tally counts what a workload asks for.
type tally struct {
	*Check
	ops                map[blk.Op]int
	fua, whole, longer int
	most               int
}

func (s *tally) Submit(r *blk.Request) {
	s.ops[r.Op]++
	if r.Flags&blk.FUA != 0 {
		s.fua++
	}
	if r.Length > 0 && r.Offset%4096 == 0 && r.Length%4096 == 0 {
		s.whole++
	}
	if r.Length > 64<<10 {
		s.longer++
	}
	s.Check.Submit(r)
	s.most = max(s.most, s.InFlight())
}

func TestWorkloadAsksForEverything(t *testing.T) {
	for _, overlap := range []bool{false, true} {
		w := NewWorld(5)
		d := NewDisk(w, "d", 1<<20, 100_000)
		d.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes = true, true })
		s := &tally{Check: NewCheck(d, t.Errorf), ops: map[blk.Op]int{}}
		o := NewOracle(1 << 20)
		o.Volatile = true
		l := NewWorkload(w, s, o, 16, t.Errorf)
		l.Left, l.Discards, l.Zeroes, l.Overlap = 3000, 4, 4, overlap
		if err := l.Run(w.Drive); err != nil {
			t.Fatal(err)
		}
		if l.Acked != 3000 || s.Completed != 3000 {
			t.Error(l.Acked, s.Completed)
		}
		for op := blk.Read; op <= blk.WriteZeroes; op++ {
			if s.ops[op] < 60 {
				t.Errorf("%v: %d", op, s.ops[op])
			}
		}
		if s.fua < 300 || s.whole < 500 || s.whole > 1500 || s.longer < 100 || s.most != 16 {
			t.Errorf("%d FUA, %d of whole 4-KiB blocks, %d long, %d in flight", s.fua, s.whole, s.longer, s.most)
		}
		if s.ReadOverlaps == 0 || (s.Overlaps > 0) != overlap {
			t.Errorf("overlap %v: %d writes, %d reads", overlap, s.Overlaps, s.ReadOverlaps)
		}
	}
}

// A volume of several lives on one disk: power cuts and kills, flush and FUA honoured, with
// overlapping writes, discards and errors. Neither disk nor oracle may accuse the other.
func TestDiskAndOracleAgree(t *testing.T) {
	for seed := range uint64(Seeds(t, 80)) {
		w := NewWorld(seed)
		d := NewDisk(w, "d", 256<<10, 50_000)
		d.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes, i.VolatileCache = true, true, seed%4 != 0 })
		o := NewOracle(256 << 10)
		o.Volatile = d.Info().VolatileCache
		fail := func(f string, a ...any) { t.Fatalf("seed %d: "+f, append([]any{seed}, a...)...) }
		for life := range 4 {
			l := NewWorkload(w, NewCheck(d, fail), o, 12, fail)
			l.Left, l.MaxBytes, l.Discards, l.Zeroes, l.Overlap, l.ErrorsOK = 1<<30, 16<<10, 5, 5, seed%2 == 0, true
			d.FailNth(blk.Write, 5+w.Rand.IntN(40), 5, false)
			d.FailNth(blk.Read, 5+w.Rand.IntN(40), 5, false)
			for range w.Rand.IntN(200) {
				l.Pump()
				w.Step()
			}
			if life%2 == 0 {
				d.Heal()
				d = d.Crash()
				o.Crash()
			} else {
				for d.Kill(); d.Busy() > 0; {
					w.Step()
				}
				d = d.Reopen()
				d.Heal()
				o.Kill()
			}
			if err := o.Pin(d.Bytes(), 0); err != nil {
				fail("life %d: %v", life, err)
			}
		}
	}
}

// Each lie of a disk is caught by the workload that runs on it, within a few seeds.
func TestWorkloadCatchesLies(t *testing.T) {
	lies := map[string]func(d *Disk){
		"lost write":        func(d *Disk) { d.LoseNth(30) },
		"misdirected write": func(d *Disk) { d.MisdirectNth(30, 64<<10) },
		"rot":               func(d *Disk) { d.W.After(1e6, func() { d.RotRange(32<<10, 64<<10) }) },
		"stale restore": func(d *Disk) {
			d.W.After(1e6, func() {
				old := append([]byte(nil), d.Bytes()[:64<<10]...)
				d.W.After(1e6, func() { d.RestoreRange(0, old) })
			})
		},
	}
	devices := map[string]func(d *Disk) blk.Device{
		"flush that does nothing": func(d *Disk) blk.Device { return &noFlush{d} },
		"FUA that means nothing":  func(d *Disk) blk.Device { return &noFUA{d} },
	}
	for name := range devices {
		lies[name] = func(*Disk) {}
	}
	for name, lie := range lies {
		caught := 0
		for seed := range uint64(40) {
			found := ""
			fail := func(f string, _ ...any) { found = f }
			w := NewWorld(seed)
			d := NewDisk(w, "d", 128<<10, 50_000)
			o := NewOracle(128 << 10)
			o.Volatile = true
			var dev blk.Device = d
			if lie(d); devices[name] != nil {
				dev = devices[name](d)
			}
			l := NewWorkload(w, dev, o, 8, fail)
			l.MaxBytes, l.Left, l.Flushes = 8<<10, 400, 10
			if err := l.Run(w.Drive); err != nil {
				t.Fatal(err)
			}
			d = d.Crash()
			o.Crash()
			if err := o.Pin(d.Bytes(), 0); err != nil {
				found = err.Error()
			}
			if found != "" {
				caught++
			}
		}
		if caught < 20 {
			t.Errorf("%s: caught by %d seeds of 40", name, caught)
		}
	}
}

// noFlush says that it flushed.
type noFlush struct{ *Disk }

func (n *noFlush) Submit(r *blk.Request) {
	if r.Op == blk.Flush {
		r.Err = 0
		n.W.After(1000, func() { r.Owner.Complete(r) })
		return
	}
	n.Disk.Submit(r)
}

// noFUA takes every write into its cache.
type noFUA struct{ *Disk }

func (n *noFUA) Submit(r *blk.Request) {
	was := r.Flags
	r.Flags = 0
	n.Disk.Submit(r) // it completes later
	r.Flags = was
}

// A write that failed is over: when a later one was acknowledged, its data must not come back.
func TestWorkloadForgetsFailedWrites(t *testing.T) {
	var failed []byte
	found, step := "", 0
	d := &bad{submit: func(r *blk.Request) {
		step++
		switch {
		case step == 1:
			failed = append(failed, r.Buf...)
			r.Err = 5
			r.Owner.Complete(r)
			return
		case r.Op == blk.Read:
			copy(r.Buf, failed)
		}
		good(r)
	}}
	w := NewWorld(1)
	l := NewWorkload(w, d, NewOracle(64<<10), 1, func(f string, _ ...any) { found = f })
	l.Align, l.MaxBytes, l.Region, l.Reads, l.Flushes, l.ErrorsOK = 1024, 1024, 1024, 0, 0, true
	l.Left = 2
	if err := l.Run(w.Drive); err != nil || found != "" || l.Errors != 1 {
		t.Fatal(err, found, l.Errors)
	}
	l.Reads, l.Left = 100, 1
	if err := l.Run(w.Drive); err != nil || found == "" {
		t.Fatal("the failed write was read after a later one was acknowledged, unnoticed", err)
	}
}

func TestWorkloadNoticesDoubleCompletion(t *testing.T) {
	found := 0
	w := NewWorld(1)
	l := NewWorkload(w, &bad{submit: func(r *blk.Request) { good(r); good(r) }}, NewOracle(64<<10), 1, func(string, ...any) { found++ })
	l.Align, l.Reads, l.Left = 1024, 0, 5
	if err := l.Run(w.Drive); err != nil || found != 5 {
		t.Error(found, err)
	}
}
