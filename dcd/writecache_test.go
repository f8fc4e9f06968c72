package dcd

import (
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// variant is what a simulated volume has beside the plain cache: a volatile cache with the memory
// that survives a killed server, or writes past the log.
type variant struct {
	on       bool
	bypass   bool
	past     uint64 // writes that went past the log, in all lives but the last
	ram      []byte
	last     uint64 // incarnation of the newest life
	replayed int
	lost     bool // the memory file is gone after a kill: only for a planted failure
}

func (w *variant) options(o *Options) {
	if o.Bypass = -1; w.bypass {
		o.Bypass = 12 << 10
	}
	if !w.on {
		return
	}
	if w.ram == nil {
		w.ram = make([]byte, 64<<10)
	}
	o.WriteCache, o.RAM, o.Replay = true, w.ram, w.last
	w.last = o.Incarnation
}

// killed: the server is gone, its memory file is not. What it was copying is half done.
func (w *variant) killed(s *sim) {
	s.oracle.Kill()
	if !w.on {
		return
	}
	l := s.c.Log()
	if l.Durable() < l.Sealed() {
		w.replayed++
	}
	c := l.Super().ChunkBytes
	at := int64(l.Head()) % c
	half := min(int64(s.w.Rand.IntN(4096)), c-at)
	if i, ok := l.Lookup(l.Durable() + 1); ok {
		half = min(half, int64(i.Pos)+c-int64(l.Head())) // what only RAM has is not written over
	}
	for i := range half {
		w.ram[at+i] = byte(s.w.Rand.Uint32())
	}
	if w.lost {
		clear(w.ram)
	}
}

// cut: the power was cut, and memory with it.
func (w *variant) cut(s *sim) {
	s.oracle.Crash()
	if w.on {
		for i := range w.ram {
			w.ram[i] = byte(s.w.Rand.Uint32())
		}
		w.last = 0
	}
}

// A volatile cache keeps everything through a killed server, and what was flushed through a power cut.
func TestSimulationOfTheWriteCache(t *testing.T) {
	n, replayed, crashes := blktest.Seeds(t, 40), 0, 0
	for seed := range uint64(n) {
		s, err := runSimWith(seed, variant{on: true})
		if err != nil {
			t.Fatal(err)
		}
		replayed, crashes = replayed+s.v.replayed, crashes+s.crashes
	}
	if replayed == 0 {
		t.Fatal("no server was killed with segments that only RAM had")
	}
	t.Logf("%d seeds, %d crashes, %d times RAM alone had the newest segments", n, crashes, replayed)
}

// The simulation notices memory that does not survive.
func TestSimulationNoticesLostMemory(t *testing.T) {
	for seed := range uint64(300) {
		if _, err := runSimWith(seed, variant{on: true, lost: true}); err != nil {
			t.Log(err)
			return
		}
	}
	t.Fatal("300 seeds with memory files lost at every kill, and nothing was noticed")
}

// Acknowledged at once, durable with the flush.
func TestWriteCacheAcknowledges(t *testing.T) {
	s := newSimWith(1, variant{on: true})
	s.log.Faults.HangNth(blk.Write, 1)
	buf := make([]byte, 33<<10)[:4096]
	var done tally
	s.check.Submit(&blk.Request{Op: blk.Write, Length: 4096, Buf: buf, Owner: &done})
	s.check.Kick(s.w.Time())
	if done.n != 1 {
		t.Fatal("a write waits for the log although the cache is volatile")
	}
	flush := &blk.Request{Op: blk.Flush, Owner: &done}
	fua := &blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: 8192, Length: 4096, Buf: buf, Owner: &done}
	s.check.Submit(flush)
	s.check.Submit(fua)
	for range 100 {
		s.check.Kick(s.w.Time())
		if !s.w.Step() {
			break
		}
	}
	if done.n != 1 {
		t.Fatalf("flush or FUA was acknowledged while the log hangs: %d", done.n)
	}
	if !s.c.Info().VolatileCache {
		t.Fatal("no volatile cache is advertised")
	}
}

// A log that fails makes the flush fail: what was acknowledged before it may be lost.
func TestWriteCacheFlushFails(t *testing.T) {
	s := newSimWith(1, variant{on: true})
	s.log.Faults.FailNth(blk.Write, 1, syscall.EIO, true)
	var done tally
	s.check.Submit(&blk.Request{Op: blk.Write, Length: 4096, Buf: make([]byte, 33<<10)[:4096], Owner: &done})
	s.check.Kick(s.w.Time())
	f := &blk.Request{Op: blk.Flush, Owner: &done}
	s.check.Submit(f)
	for done.n < 2 {
		s.check.Kick(s.w.Time())
		if done.n < 2 && !s.w.Step() {
			t.Fatal("quiet")
		}
	}
	if f.Err != syscall.EIO {
		t.Fatal(f.Err)
	}
}

type tally struct{ n int }

func (c *tally) Complete(*blk.Request) { c.n++ }

// A memory file of another life, or of another log, adds nothing.
func TestReplayTakesNoForeignSegment(t *testing.T) {
	w := blktest.NewWorld(3)
	ram := make([]byte, 64<<10)
	log := blktest.NewDisk(w, "log", simLog, 1000)
	if err := seglog.Create(log, simSuper(), w.Drive); err != nil {
		t.Fatal(err)
	}
	open := func(incarnation, replay uint64, dev *blktest.Disk) *seglog.Log {
		l, err := seglog.Open(dev, seglog.Options{Incarnation: incarnation, RAM: ram, Replay: replay}, w.Drive)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open(1, 0, log)
	log.Faults.HangNth(blk.Write, 1)
	for range 3 {
		l.Begin(1, 4096)
		l.Add(seglog.Data, 0, 4096, make([]byte, 4096))
		l.Seal(w.Time())
	}
	copyOf := func() *blktest.Disk { return log.Crash() }
	if l := open(2, 9, copyOf()); l.Sealed() != 0 {
		t.Fatalf("LSN %d of another incarnation was taken", l.Sealed())
	}
	if l := open(2, 1, copyOf()); l.Sealed() != 3 || l.Durable() != 3 {
		t.Fatalf("sealed %d, durable %d of 3", l.Sealed(), l.Durable())
	}
}
