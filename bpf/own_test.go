package bpf

import (
	"math/rand/v2"
	"testing"
)

// made is a request with random stamps, some of them missing or out of order.
func made(r *rand.Rand) (op Op, st [Stamps]int64) {
	for i := range st {
		if r.IntN(4) > 0 {
			st[i] = 1000 + r.Int64N(1<<r.IntN(30))
		}
	}
	st[Pickup], st[Committed] = 1000, max(1000, st[Committed])
	return Op(r.IntN(int(Ops))), st
}

// The server's own account of a request is the kernel's, but for the stages that only the kernel sees.
func TestOwnIsTheKernels(t *testing.T) {
	prog, _, d := harness(t)
	r := rand.New(rand.NewPCG(5, 6))
	own := NewOwn()
	for range 500 {
		op, st := made(r)
		own.Record(op, st[LogDone] == 0, &st)
		m := latencyMadeUp{Io: latencyIo{Start: 1000, Issue: 1000, Op: uint32(op)}, HasSlot: 1, Complete: uint64(st[Committed])}
		if st[LogDone] == 0 {
			m.Status = 10
		}
		for i, at := range st {
			m.Slot.Stamps[i] = uint64(at)
		}
		run(t, prog, d, m)
	}
	kernel, mine := snapshot(t, d), &Snapshot{}
	for op := range Ops {
		own.Copy(op, mine)
	}
	own.Sum(mine)
	for op := range Ops {
		for _, st := range []Stage{StageServer, StageLog, StageData, StageSent, StageAcked, StageCommit, StageTotal, StageFromRAM, StageFromLog, StageFromData, StageFromPeer} {
			if mine.Hists[op][st] != kernel.Hists[op][st] {
				t.Errorf("%v %v: %d, %d ns; the kernel has %d, %d ns", op, st, mine.Hists[op][st].Count, mine.Hists[op][st].Sum, kernel.Hists[op][st].Count, kernel.Hists[op][st].Sum)
			}
		}
		for _, st := range []Stage{StageQueue, StageDispatch, StageComplete, StageDevice, StageRing, StageWake} {
			if mine.Hists[op][st].Count != 0 {
				t.Errorf("%v %v was counted", op, st)
			}
		}
	}
	if mine.Stats.Failed != kernel.Stats.Failed || mine.Stats.Completed != 500 || mine.Stats.Matched != 500 {
		t.Errorf("%+v, the kernel has %+v", mine.Stats, kernel.Stats)
	}
}

// Slow ones are told of up to the rate, and no more than there is room for; nothing is allocated.
func TestOwnOutliers(t *testing.T) {
	own := NewOwn()
	count := func(second, took int64) {
		st := [Stamps]int64{Pickup: second*1e9 + 1, Committed: second*1e9 + 1 + took}
		if own.Record(Write, false, &st) {
			own.Tell(Request{Op: Write, Start: st[Pickup]})
		}
	}
	count(1, 1e6)
	own.SetThreshold(1e6, 3)
	for range 5 {
		count(1, 1e6)
		count(1, 1e6-1)
	}
	count(2, 1e6)
	s := &Snapshot{}
	own.Copy(Write, s)
	own.Sum(s)
	if list := own.Take(nil); len(list) != 4 || list[3].Start != 2e9+1 || s.Stats.Slow != 6 || s.Stats.Shed != 2 || s.Stats.Completed != 12 {
		t.Errorf("%d, %+v", len(list), s.Stats)
	}
	if list := own.Take(nil); len(list) != 0 {
		t.Errorf("%d twice", len(list))
	}
	own.SetThreshold(1, 1e6)
	if n := testing.AllocsPerRun(2*maxSlow, func() { count(3, 1e6) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if list := own.Take(nil); len(list) != maxSlow {
		t.Errorf("%d kept", len(list))
	}
	if st := [Stamps]int64{Committed: 5}; own.Record(Read, false, &st) {
		t.Error("one that nobody picked up was counted")
	}
}

func BenchmarkOwnRecord(b *testing.B) {
	own := NewOwn()
	st := [Stamps]int64{Pickup: 1000, Begun: 2000, LogDone: 90000, Committed: 91000}
	for i := range b.N {
		st[LogDone], st[Committed] = 9000+int64(i&0xffff), 9900+int64(i&0xffff)
		own.Record(Write, false, &st)
	}
}
