package blktest

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

const rigBytes = 64 << 10

// rig is a disk with a way to do things to it one at a time.
type rig struct {
	*testing.T
	w *World
	d *Disk
	b []byte
}

func newRig(t *testing.T, seed uint64) *rig {
	w := NewWorld(seed)
	d := NewDisk(w, "d", rigBytes, 1000)
	d.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes = true, true })
	return &rig{t, w, d, make([]byte, 4096)}
}

func (g *rig) try(op blk.Op, flags blk.Flags, off int64) error {
	r := &blk.Request{Op: op, Flags: flags, Offset: off, Length: 4096}
	switch op {
	case blk.Read, blk.Write:
		r.Buf = g.b
	case blk.Flush:
		r.Offset, r.Length = 0, 0
	}
	return blk.Do(g.d, r, g.w.Drive)
}

func (g *rig) do(op blk.Op, flags blk.Flags, off int64) {
	g.Helper()
	if err := g.try(op, flags, off); err != nil {
		g.Fatalf("%v at %d: %v", op, off, err)
	}
}

func (g *rig) write(off int64, value uint64, flags blk.Flags) {
	g.Helper()
	Fill(g.b, off, value)
	g.do(blk.Write, flags, off)
}

// start submits a write that nobody waits for.
func (g *rig) start(off int64, value uint64, flags blk.Flags, told *int) {
	b := make([]byte, 4096)
	Fill(b, off, value)
	g.d.Submit(&blk.Request{Op: blk.Write, Flags: flags, Offset: off, Length: 4096, Buf: b, Owner: completer(func(*blk.Request) { *told++ })})
}

// count says how many of the eight sectors at off hold each value.
func (g *rig) count(off int64) map[uint64]int {
	g.Helper()
	out := map[uint64]int{}
	for s := off / 512; s < off/512+8; s++ {
		v, err := Value(g.d.Bytes()[s*512:(s+1)*512], uint64(s))
		if err != nil {
			g.Fatal(err)
		}
		out[v]++
	}
	return out
}

func TestContractOfTheSimulatedDisk(t *testing.T) {
	for _, block := range []int32{512, 4096} {
		w := NewWorld(1)
		d := NewDisk(w, "d", 8<<20, 1000)
		d.SetInfo(func(i *blk.Info) {
			i.LogicalBytes, i.PhysicalBytes = block, 4096
			i.Discard, i.WriteZeroes = true, block == 4096
		})
		Contract(t, d, w.Drive)
	}
}

// A cut keeps flushed and FUA writes, and of the others a subset of sectors, each in any of its
// versions: over many seeds some must be lost, some kept and some torn.
func TestPowerCut(t *testing.T) {
	var lost, kept, torn, flying int
	versions := map[uint64]bool{}
	for seed := range uint64(200) {
		g := newRig(t, seed)
		g.write(0, 1, 0)
		g.do(blk.Flush, 0, 0)
		g.write(4096, 2, 0)
		g.write(4096, 3, blk.FUA)
		g.write(8192, 4, 0)
		g.write(12288, 5, blk.FUA)
		g.write(12288, 6, 0)
		g.write(12288, 7, 0)
		told := 0
		g.start(16384, 8, blk.FUA, &told)
		old := g.d
		g.d = g.d.Crash()
		for g.w.Step() {
		}
		if told != 0 || old.Busy() == 0 {
			t.Fatal("a request completed after the cut")
		}
		if g.count(0)[1] != 8 || g.count(4096)[3] != 8 {
			t.Fatalf("seed %d: durable data is %v and %v", seed, g.count(0), g.count(4096))
		}
		switch g.count(8192)[4] {
		case 0:
			lost++
		case 8:
			kept++
		default:
			torn++
		}
		for v := range g.count(12288) {
			versions[v] = true
		}
		flying += g.count(16384)[8]
	}
	if lost == 0 || kept == 0 || torn == 0 || flying == 0 || flying == 200*8 {
		t.Fatalf("lost %d, kept %d, torn %d, sectors in flight kept %d", lost, kept, torn, flying)
	}
	if len(versions) != 3 || !versions[5] || !versions[6] || !versions[7] {
		t.Fatalf("versions seen after cuts: %v", versions)
	}
}

// A flush covers what had completed when it began, not what completes meanwhile.
func TestFlushCoversWhatWasThere(t *testing.T) {
	early, late := 0, 0
	for seed := range uint64(200) {
		g := newRig(t, seed)
		g.write(0, 1, 0)
		flushed, told := false, 0
		g.d.SlowNth(blk.Flush, 1, 1e6)
		g.d.Submit(&blk.Request{Op: blk.Flush, Owner: completer(func(*blk.Request) { flushed = true })})
		g.start(4096, 2, 0, &told)
		for !flushed {
			g.w.Step()
		}
		if told != 1 {
			t.Fatal("the write was to complete during the flush")
		}
		g.d = g.d.Crash()
		early += g.count(0)[1]
		late += g.count(4096)[2]
	}
	if early != 200*8 || late == 0 || late == 200*8 {
		t.Fatalf("%d sectors written before the flush are there, %d of those written during it", early, late)
	}
}

// A slow flush that another overtakes does not bring back what it covered.
func TestFlushesOvertake(t *testing.T) {
	g := newRig(t, 1)
	g.write(0, 1, 0)
	slow := false
	g.d.HangNth(blk.Flush, 1)
	g.d.Submit(&blk.Request{Op: blk.Flush, Owner: completer(func(*blk.Request) { slow = true })})
	g.write(0, 2, 0)
	g.do(blk.Flush, 0, 0)
	if g.d.Release(); !slow {
		t.Fatal("the slow flush never completed")
	}
	if g.d = g.d.Crash(); g.count(0)[2] != 8 {
		t.Fatal(g.count(0))
	}
}

// Without a volatile cache every write that completed is durable.
func TestNoVolatileCache(t *testing.T) {
	for seed := range uint64(50) {
		g := newRig(t, seed)
		g.d.SetInfo(func(i *blk.Info) { i.VolatileCache = false })
		g.write(0, 1, 0)
		g.write(4096, 2, 0)
		g.do(blk.Discard, 0, 4096)
		if g.d = g.d.Crash(); g.count(0)[1] != 8 || g.count(4096)[0] != 8 {
			t.Fatalf("seed %d: %v %v", seed, g.count(0), g.count(4096))
		}
	}
}

// A killed server's operations land late, some of them not at all, and nobody is told.
func TestKill(t *testing.T) {
	landed := map[int]bool{}
	for seed := range uint64(100) {
		g := newRig(t, seed)
		told := 0
		g.start(0, 9, 0, &told)
		if g.d.Kill(); g.d.Busy() > 1 {
			t.Fatal(g.d.Busy())
		}
		if n := g.count(0)[9]; n != 0 {
			t.Fatal("it landed before its time")
		}
		for g.d.Busy() > 0 {
			if !g.w.Step() {
				t.Fatal("quiet")
			}
		}
		g.d = g.d.Reopen()
		n := g.count(0)[9]
		landed[n] = true
		if told != 0 {
			t.Fatal("somebody was told")
		}
		if g.write(4096, 10, 0); g.count(4096)[10] != 8 {
			t.Fatal("the disk does not work for the next server")
		}
	}
	if !landed[0] || !landed[8] || len(landed) < 3 {
		t.Fatalf("sectors that landed: %v", landed)
	}
}

func TestReopenNeedsQuiet(t *testing.T) {
	g := newRig(t, 1)
	told := 0
	g.start(0, 9, 0, &told)
	defer func() {
		if recover() == nil {
			t.Error("reopened while a dead server's write was in flight")
		}
	}()
	g.d.Reopen()
}

func TestBrokenRequestsPanic(t *testing.T) {
	owner := completer(func(*blk.Request) {})
	b := make([]byte, 8192)
	for name, r := range map[string]*blk.Request{
		"past the end": {Op: blk.Read, Offset: rigBytes - 512, Length: 1024, Buf: b, Owner: owner},
		"misaligned":   {Op: blk.Read, Offset: 100, Length: 512, Buf: b, Owner: owner},
		"short buffer": {Op: blk.Write, Length: 1024, Buf: b[:512], Owner: owner},
		"odd buffer":   {Op: blk.Write, Length: 512, Buf: b[8:520], Owner: owner},
		"no owner":     {Op: blk.Flush},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			newRig(t, 1).d.Submit(r)
		})
	}
}
