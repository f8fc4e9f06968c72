package blktest

import (
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

func TestFailNth(t *testing.T) {
	g := newRig(t, 3)
	g.d.FailNth(blk.Write, 2, syscall.ENOSPC, false)
	for i, want := range []error{nil, syscall.ENOSPC, nil} {
		if err := g.try(blk.Write, 0, 0); err != want {
			t.Errorf("write %d: %v", i+1, err)
		}
	}
	g.d.FailNth(blk.Read, 2, syscall.EIO, true)
	for i, want := range []error{nil, syscall.EIO, syscall.EIO} {
		if err := g.try(blk.Read, 0, 0); err != want {
			t.Errorf("read %d: %v", i+1, err)
		}
	}
	for _, x := range g.b {
		if x != garbage {
			t.Fatal("a failed read left data in the buffer")
		}
	}
	g.d.Heal()
	g.d.FailNthOfAny(3, syscall.EIO, false)
	g.do(blk.Read, 0, 0)
	g.do(blk.Flush, 0, 0)
	if g.try(blk.Write, 0, 0) != syscall.EIO || g.d.Hits != 4 {
		t.Error(g.d.Hits)
	}
}

// A write that fails may have landed in part; what landed is in the cache only, FUA or not.
func TestFailedWriteLandsInPart(t *testing.T) {
	some := map[int]bool{}
	for seed := range uint64(50) {
		g := newRig(t, seed)
		g.d.FailNth(blk.Write, 1, syscall.EIO, false)
		Fill(g.b, 0, 5)
		if g.try(blk.Write, blk.FUA, 0) != syscall.EIO {
			t.Fatal("no error")
		}
		some[g.count(0)[5]] = true
	}
	if len(some) < 4 {
		t.Fatalf("sectors landed: %v", some)
	}
}

// After a failed flush a later one that succeeds has not saved everything: who retries and
// hopes loses data in the next cut, although reads showed it.
func TestFailedFlushForgets(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		g := newRig(t, seed)
		g.write(0, 5, 0)
		g.d.FailNth(blk.Flush, 1, syscall.EIO, false)
		if g.try(blk.Flush, 0, 0) != syscall.EIO {
			t.Fatal("no error")
		}
		g.do(blk.Flush, 0, 0)
		if g.count(0)[5] != 8 {
			t.Fatal("reads should show it")
		}
		g.d = g.d.Crash()
		lost += g.count(0)[0]
		// Written again and flushed, all is well.
		g.write(0, 6, 0)
		g.do(blk.Flush, 0, 0)
		if g.d = g.d.Crash(); g.count(0)[6] != 8 {
			t.Fatal(g.count(0))
		}
	}
	if lost == 0 {
		t.Fatal("nothing was lost")
	}
}

func TestBadRange(t *testing.T) {
	g := newRig(t, 1)
	g.d.BadRange(8192+512, 1024)
	g.do(blk.Read, 0, 4096)
	if g.try(blk.Read, 0, 8192) != syscall.EIO {
		t.Error("a bad sector was read")
	}
	g.d = g.d.Crash()
	if g.try(blk.Read, 0, 8192) != syscall.EIO {
		t.Error("a power cut healed a sector")
	}
	one := make([]byte, 512)
	sector := func(op blk.Op, off int64) error {
		return blk.Do(g.d, &blk.Request{Op: op, Offset: off, Length: 512, Buf: one}, g.w.Drive)
	}
	if sector(blk.Write, 8192+512) != nil || sector(blk.Read, 8192+512) != nil {
		t.Error("a bad sector is good again when it is written")
	}
	if sector(blk.Read, 8192+1024) != syscall.EIO {
		t.Error("its neighbour was healed with it")
	}
	g.do(blk.WriteZeroes, 0, 8192)
	g.do(blk.Read, 0, 8192)
}

// Rot is silent, and gone when the sector is written again.
func TestRot(t *testing.T) {
	g := newRig(t, 1)
	g.write(0, 5, 0)
	g.d.RotRange(512, 1)
	g.do(blk.Read, 0, 0)
	if _, err := Value(g.b[512:1024], 1); err == nil {
		t.Error("no rot")
	}
	if _, err := Value(g.b[:512], 0); err != nil {
		t.Error(err)
	}
	g.do(blk.Flush, 0, 0)
	if g.d = g.d.Crash(); g.d.Bytes()[512] == 5 {
		t.Error("the cache healed it")
	}
	if g.write(0, 6, 0); g.count(0)[6] != 8 {
		t.Error("a write did not heal it")
	}
}

func TestHang(t *testing.T) {
	g := newRig(t, 1)
	g.d.HangNth(blk.Read, 1)
	if g.try(blk.Read, 0, 0) != ErrQuiet || g.d.Hung() != 1 || g.d.Busy() != 1 {
		t.Error("the read should hang")
	}
	g.do(blk.Write, 0, 0)
	g.d.Release()
	if g.d.Hung() != 0 || g.d.Busy() != 0 {
		t.Error("it still hangs")
	}
}

// Nothing completes while a disk is stuck, also not what was in flight.
func TestStuck(t *testing.T) {
	g := newRig(t, 1)
	told := 0
	g.start(0, 5, 0, &told)
	until := g.w.Now + 5e9
	g.d.StuckUntil(until)
	for told == 0 {
		if !g.w.Step() {
			t.Fatal("quiet")
		}
	}
	if g.w.Now < until {
		t.Fatal("too early")
	}
	if g.d.SlowNth(blk.Flush, 1, 7e9); g.try(blk.Flush, 0, 0) != nil || g.w.Now < until+7e9 {
		t.Fatal("the slow flush was fast")
	}
}

func TestLostAndMisdirectedWrites(t *testing.T) {
	g := newRig(t, 1)
	g.write(0, 1, blk.FUA)
	g.d.LoseNth(1)
	g.write(0, 2, blk.FUA)
	if g.count(0)[1] != 8 {
		t.Error("the lost write is there")
	}
	g.d.MisdirectNth(1, 8192)
	g.write(4096, 3, blk.FUA)
	if g.count(4096)[0] != 8 {
		t.Error("the misdirected write is where it should be")
	}
	if v, err := Value(g.d.Bytes()[8192:8704], 16); err == nil || v != 3 {
		t.Errorf("write %d, %v where it was misdirected to", v, err)
	}
	if g.d.Hits != 2 {
		t.Error(g.d.Hits)
	}
}

func TestRestore(t *testing.T) {
	g := newRig(t, 1)
	g.write(0, 1, 0)
	old := append([]byte(nil), g.d.Bytes()[:4096]...)
	g.write(0, 2, 0)
	g.write(4096, 3, blk.FUA)
	g.d.RestoreRange(0, old)
	g.do(blk.Flush, 0, 0)
	if g.d = g.d.Crash(); g.count(0)[1] != 8 || g.count(4096)[3] != 8 {
		t.Error(g.count(0), g.count(4096))
	}
	g.d.Restore(make([]byte, rigBytes))
	if g.d = g.d.Crash(); g.count(0)[0] != 8 || g.count(4096)[0] != 8 {
		t.Error(g.count(0), g.count(4096))
	}
}

func TestDeadDisk(t *testing.T) {
	g := newRig(t, 1)
	told := 0
	g.start(0, 5, 0, &told)
	g.d.Dead = true
	for _, op := range []blk.Op{blk.Read, blk.Write, blk.Flush, blk.Discard} {
		if g.try(op, 0, 0) != syscall.EIO {
			t.Errorf("%v worked", op)
		}
	}
	if g.count(0)[0] != 8 || told != 1 {
		t.Error("a write in flight landed on a dead disk, or nobody was told")
	}
}
