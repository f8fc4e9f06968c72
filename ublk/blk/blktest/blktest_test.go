package blktest

import (
	"bytes"
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

func TestContractOfTheSimulatedDisk(t *testing.T) {
	w := NewWorld(1)
	Contract(t, NewDisk(w, "d", 8<<20, 1000), w.Drive)
}

func history(seed uint64, t *testing.T) (uint64, *Disk, *Oracle) {
	w := NewWorld(seed)
	d := NewDisk(w, "d", 1<<20, 100_000)
	o := NewOracle(1 << 20)
	l := NewWorkload(w, NewCheck(d, t.Errorf), o, 16, t.Errorf)
	l.Left = 300
	for l.Pump(); !l.Done(); l.Pump() {
		if !w.Step() {
			t.Fatal("quiet too early")
		}
	}
	return w.Trace, d, o
}

func TestOneSeedOneHistory(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(20) {
		a, _, _ := history(seed, t)
		b, _, _ := history(seed, t)
		if a != b {
			t.Fatalf("seed %d: two histories", seed)
		}
		seen[a] = true
	}
	if len(seen) != 20 {
		t.Fatalf("%d histories of 20 seeds", len(seen))
	}
}

// A cut keeps flushed and FUA writes, and of the others a subset of sectors: over many seeds
// some must be lost, some kept and some torn.
func TestPowerCut(t *testing.T) {
	var lost, kept, torn int
	for seed := range uint64(200) {
		w := NewWorld(seed)
		d := NewDisk(w, "d", 1<<20, 1000)
		b := make([]byte, 4096)
		write := func(off int64, value uint64, flags blk.Flags) {
			Fill(b, off, value)
			if err := blk.Do(d, &blk.Request{Op: blk.Write, Flags: flags, Offset: off, Length: 4096, Buf: b}, w.Drive); err != nil {
				t.Fatal(err)
			}
		}
		write(0, 1, 0)
		if err := blk.Do(d, &blk.Request{Op: blk.Flush}, w.Drive); err != nil {
			t.Fatal(err)
		}
		write(4096, 2, 0)
		write(4096, 3, blk.FUA)
		write(8192, 4, 0)
		d = d.Crash()
		n := 0
		for s := range uint64(24) {
			v, err := Value(d.Bytes()[s*512:(s+1)*512], s)
			if err != nil || s < 8 && v != 1 || s >= 8 && s < 16 && v != 3 {
				t.Fatalf("seed %d sector %d: %d %v", seed, s, v, err)
			}
			if s >= 16 && v == 4 {
				n++
			}
		}
		switch n {
		case 0:
			lost++
		case 8:
			kept++
		default:
			torn++
		}
	}
	if lost == 0 || kept == 0 || torn == 0 {
		t.Fatalf("lost %d, kept %d, torn %d", lost, kept, torn)
	}
}

// The oracle must notice old data after an acknowledgement, data in the wrong place, and garbage.
func TestOracleNotices(t *testing.T) {
	o := NewOracle(1 << 20)
	a, b := make([]byte, 512), make([]byte, 512)
	v := o.Begin(a, 4096)
	before := o.Snapshot(4096, 512)
	if o.CheckRead(make([]byte, 512), 4096, before) != nil || o.CheckRead(a, 4096, before) != nil {
		t.Fatal("a write in flight may or may not be seen")
	}
	o.Ack(v, 4096, 512)
	after := o.Snapshot(4096, 512)
	copy(b, a)
	b[300] ^= 1
	for name, buf := range map[string][]byte{"old": make([]byte, 512), "garbage": b} {
		if o.CheckRead(buf, 4096, after) == nil || o.Pin(buf, 4096) == nil {
			t.Errorf("%s data went unnoticed", name)
		}
	}
	if o.CheckRead(a, 8192, o.Snapshot(8192, 512)) == nil {
		t.Error("data of another sector went unnoticed")
	}
}

func TestFaultsFire(t *testing.T) {
	w := NewWorld(3)
	d := NewDisk(w, "d", 1<<20, 1000)
	b := make([]byte, 4096)
	do := func(op blk.Op, off int64) error {
		return blk.Do(d, &blk.Request{Op: op, Offset: off, Length: 4096, Buf: b}, w.Drive)
	}
	d.FailNth(blk.Write, 2, syscall.ENOSPC, false)
	if do(blk.Write, 0) != nil || do(blk.Write, 0) != syscall.ENOSPC || do(blk.Write, 0) != nil {
		t.Error("the second write should fail, and only it")
	}
	d.BadRange(8192, 512)
	if do(blk.Read, 8192) != syscall.EIO || do(blk.Write, 8192) != nil || do(blk.Read, 8192) != nil {
		t.Error("a bad sector fails until it is written")
	}
	d.RotRange(512, 1)
	if err := do(blk.Read, 0); err != nil || b[512] == 0 && bytes.Equal(b, make([]byte, 4096)) {
		t.Error("rot", err)
	}
	d.HangNth(blk.Read, 1)
	if do(blk.Read, 0) != ErrQuiet || d.Hung() != 1 {
		t.Error("the read should hang")
	}
	d.Release()
	d.Dead = true
	if do(blk.Write, 0) != syscall.EIO || do(blk.Flush, 0) != syscall.EIO {
		t.Error("a dead disk worked")
	}
}

// A killed server's write lands although nobody is told.
func TestKill(t *testing.T) {
	w := NewWorld(4)
	d := NewDisk(w, "d", 1<<20, 1000)
	b := make([]byte, 4096)
	Fill(b, 0, 9)
	told := 0
	d.Submit(&blk.Request{Op: blk.Write, Length: 4096, Buf: b, Owner: completer(func(*blk.Request) { told++ })})
	d.Kill()
	for d.Busy() > 0 {
		if !w.Step() {
			t.Fatal("quiet")
		}
	}
	d = d.Reopen()
	if v, err := Value(d.Bytes()[:512], 0); err != nil || v != 9 || told != 0 {
		t.Fatal(v, err, told)
	}
}

// The contract wrapper must notice a device that completes twice.
func TestCheckNotices(t *testing.T) {
	breaches := 0
	c := NewCheck(&twice{}, func(string, ...any) { breaches++ })
	c.Submit(&blk.Request{Op: blk.Write, Length: 512, Buf: make([]byte, 512), Owner: completer(func(*blk.Request) {})})
	if breaches != 1 {
		t.Errorf("double completion: %d breaches", breaches)
	}
	breaches = 0
	c = NewCheck(&blk.Null{SizeBytes: 4096}, func(string, ...any) { breaches++ })
	c.Submit(&blk.Request{Op: blk.Read, Offset: 4096, Length: 512, Buf: make([]byte, 512), Owner: completer(func(*blk.Request) {})})
	c.Submit(&blk.Request{Op: blk.Read, Offset: 100, Length: 512, Buf: make([]byte, 512), Owner: completer(func(*blk.Request) {})})
	c.Submit(&blk.Request{Op: blk.Read, Length: 1024, Buf: make([]byte, 512), Owner: completer(func(*blk.Request) {})})
	if breaches != 3 {
		t.Errorf("%d breaches of 3", breaches)
	}
}

type twice struct{ blk.Null }

func (*twice) Info() blk.Info { return blk.Info{SizeBytes: 4096, LogicalBytes: 512} }
func (*twice) Submit(r *blk.Request) {
	o := r.Owner
	o.Complete(r)
	o.Complete(r)
}
