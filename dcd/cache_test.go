package dcd

import (
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// The contract suite, on a volume large enough for it.
func TestContract(t *testing.T) {
	w := blktest.NewWorld(1)
	data, log := blktest.NewDisk(w, "data", 8<<20, 1000), blktest.NewDisk(w, "log", 4<<20, 1000)
	s := seglog.Super{DiskBytes: 8 << 20, DiskBlock: 512, MaxSegmentBytes: 528 << 10, ChunkBytes: 3 << 20}
	if err := seglog.Create(log, s, w.Drive); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{Data: data, Log: log}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	blktest.Contract(t, c, func() (blk.Instant, error) {
		w.Turn(w.Now + 1e6)
		return w.Time(), nil
	})
}

// Every Nth operation of either disk fails, once and for ever: no acknowledged write is lost and
// no read returns wrong data; errors are allowed, lies are not.
func TestEveryOperationFails(t *testing.T) {
	for _, disk := range []string{"data", "log"} {
		for _, sticky := range []bool{false, true} {
			for n := 1; n < 400; n += 1 + n/20 {
				if hits := failNth(t, disk, n, sticky); hits == 0 && n > 20 {
					break
				}
			}
		}
	}
}

func failNth(t *testing.T, disk string, n int, sticky bool) (hits int) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			t.Fatalf("operation %d of the %s disk failing (for ever: %v): %s", n, disk, sticky, f.msg)
		}
	}()
	s := newSim(5)
	d := s.data
	if disk == "log" {
		d = s.log
	}
	d.FailNthOfAny(n, syscall.EIO, sticky)
	s.load.ErrorsOK = true
	s.load.Left = 150
	for i := 0; i < 3000 && !s.load.Done(); i++ {
		if !s.turn() {
			break
		}
	}
	hits = d.Hits
	s.data.Heal()
	s.log.Heal()
	s.data, s.log = s.data.Crash(), s.log.Crash()
	s.open()
	s.verify()
	return hits
}

// A disk that was written behind the log's back is refused before anything is replayed.
func TestChangedDiskIsRefused(t *testing.T) {
	for _, sector := range []int64{2, simDisk/512 - 1} {
		s := newSim(3)
		s.load.Left = 50
		for !s.load.Done() {
			s.turn()
		}
		s.data, s.log = s.data.Crash(), s.log.Crash()
		if _, err := Open(Options{Data: s.data, Log: s.log}, s.w.Drive); err != nil {
			t.Fatal("unchanged, but: ", err)
		}
		b := append([]byte(nil), s.data.Bytes()...)
		copy(b[sector*512:], "mkfs was here")
		s.data.Restore(b)
		if _, err := Open(Options{Data: s.data, Log: s.log}, s.w.Drive); !errors.Is(err, ErrChanged) {
			t.Errorf("sector %d: %v", sector, err)
		}
		if _, err := Open(Options{Data: s.data, Log: s.log, AcceptDisk: true}, s.w.Drive); err != nil {
			t.Error(err)
		}
	}
}

func TestUnusableDisksAreRefused(t *testing.T) {
	for want, change := range map[error]func(*blk.Info){
		ErrReadOnly: func(i *blk.Info) { i.ReadOnly = true },
		ErrZoned:    func(i *blk.Info) { i.Zoned = true },
		ErrShrunk:   func(i *blk.Info) { i.SizeBytes /= 2 },
	} {
		s := newSim(2)
		s.data.SetInfo(change)
		if _, err := Open(Options{Data: s.data, Log: s.log}, s.w.Drive); !errors.Is(err, want) {
			t.Errorf("%v: got %v", want, err)
		}
	}
}

// written is a simulation whose data disk holds what a load has written.
func written(seed uint64) *sim {
	s := newSim(seed)
	s.load.Left = 200
	for !s.load.Done() {
		s.turn()
	}
	s.drain()
	return s
}

// A read that the data disk cannot answer goes to the fallback, which must hold what was destaged.
func TestFallback(t *testing.T) {
	s := written(6)
	peer := blktest.NewDisk(s.w, "peer", simDisk, 1000)
	peer.Restore(s.data.Bytes())
	s.data.Dead = true
	s.c.SetFallback(peer)
	b, err := blktest.ReadAll(s.c, s.drive)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.oracle.Pin(b, 0); err != nil {
		t.Fatal(err)
	}
	if s.c.count.ReadPeer == 0 || peer.Reads == 0 {
		t.Fatal("the peer was never asked")
	}
}

// While it is held nothing is answered; then everything is.
func TestHold(t *testing.T) {
	s := newSim(7)
	s.c.Hold(true)
	s.load.Left = 20
	for range 200 {
		s.turn()
	}
	if s.load.Acked != 0 {
		t.Fatalf("%d answered while held", s.load.Acked)
	}
	s.c.Hold(false)
	for !s.load.Done() {
		if !s.turn() {
			t.Fatal("quiet")
		}
	}
	if s.load.Acked != 20 {
		t.Fatal(s.load.Acked)
	}
}

// ram completes everything inline and keeps nothing: the price of the cache alone.
type ram struct{ size int64 }

func (d *ram) Info() blk.Info {
	return blk.Info{SizeBytes: d.size, LogicalBytes: 512, PhysicalBytes: 4096}
}
func (d *ram) Submit(r *blk.Request)  { r.Err = 0; r.Owner.Complete(r) }
func (d *ram) Kick(blk.Instant) int64 { return blk.Never }
func (d *ram) Close() error           { return nil }

type sink struct{ done int }

func (s *sink) Complete(*blk.Request) { s.done++ }

// batches gives what runs one batch of depth requests through a cache over devices in memory.
func batches(tb testing.TB, op blk.Op, depth int) (batch func(), s *sink) {
	tb.Helper()
	w := blktest.NewWorld(1)
	log := blktest.NewDisk(w, "log", 64<<20, 1000)
	super := seglog.Super{DiskBytes: 1 << 30, DiskBlock: 512}
	if err := seglog.Create(log, super, w.Drive); err != nil {
		tb.Fatal(err)
	}
	probe, err := seglog.Probe(log, w.Drive)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := Open(Options{Data: &ram{1 << 30}, Super: &probe}, w.Drive)
	if err != nil {
		tb.Fatal(err)
	}
	s = new(sink)
	reqs := make([]blk.Request, depth)
	for i := range reqs {
		reqs[i] = blk.Request{Op: op, Length: 4096, Buf: make([]byte, 4096), Owner: s}
	}
	now, n := blk.Instant{Mono: 1}, int64(0)
	return func() {
		want := s.done + depth
		for i := range reqs {
			n++
			reqs[i].Offset = n * 7919 % (1 << 18) * 4096
			c.Submit(&reqs[i])
		}
		for s.done < want {
			now.Mono += 1000
			c.Kick(now)
		}
	}, s
}

func TestRequestAllocatesNothing(t *testing.T) {
	for _, op := range []blk.Op{blk.Write, blk.Read} {
		batch, s := batches(t, op, 32)
		for range 2000 { // until destage is at work
			batch()
		}
		if n := testing.AllocsPerRun(1000, batch); n != 0 {
			t.Errorf("%v: %v allocations per batch", op, n)
		}
		if s.done < 3000*32 {
			t.Error(s.done)
		}
	}
}

func benchmark(b *testing.B, op blk.Op) {
	batch, _ := batches(b, op, 32)
	b.SetBytes(32 * 4096)
	b.ReportAllocs()
	for b.Loop() {
		batch()
	}
}

func BenchmarkWrite4KDepth32(b *testing.B) { benchmark(b, blk.Write) }
func BenchmarkRead4KDepth32(b *testing.B)  { benchmark(b, blk.Read) }

// The stamps of a read say where it was served: data disk, or the peer that stands in for it; a read
// from RAM has neither.
func TestReadsAreStampedWhereTheyAreServed(t *testing.T) {
	s := written(6)
	buf := make([]byte, 4096)
	do := func(op blk.Op) (st blk.Stamps) {
		t.Helper()
		done := false
		s.c.Submit(&blk.Request{Op: op, Length: 4096, Buf: buf, Stamps: &st, Owner: completer(func(r *blk.Request) { done = r.Err == 0 })})
		for s.c.AckLimit = math.MaxUint64; !done; {
			if wake := s.c.Kick(s.w.Time()); !done && wake > s.w.Now && !s.w.Turn(wake) {
				t.Fatal("quiet")
			}
		}
		return st
	}
	passed := func(what string, st blk.Stamps, want ...blk.Stage) {
		t.Helper()
		for g := range blk.Stages {
			if (st[g] != 0) != slices.Contains(want, g) {
				t.Errorf("%s: stamps %v", what, st)
			}
		}
	}
	passed("from the disk", do(blk.Read), blk.Begun, blk.DataDone)
	s.c.HoldDestage(true)
	passed("written", do(blk.Write), blk.Begun, blk.LogDone)
	passed("from RAM", do(blk.Read), blk.Begun)
	s.c.HoldDestage(false)
	s.drain()
	peer := blktest.NewDisk(s.w, "peer", simDisk, 1000)
	peer.Restore(s.data.Bytes())
	s.data.Dead = true
	s.c.SetFallback(peer)
	passed("from the peer", do(blk.Read), blk.Begun, blk.PeerSent, blk.PeerAcked)
}

// A write that comes while an append is in flight begins when the next segment takes it.
func TestWaitingForTheAppendIsStamped(t *testing.T) {
	s := newSim(6)
	s.c.AckLimit = math.MaxUint64
	var st [2]blk.Stamps
	left := 2
	for i := range st {
		st[i][blk.Pickup] = s.w.Now
		s.c.Submit(&blk.Request{Op: blk.Write, Offset: int64(i) * 4096, Length: 4096, Buf: make([]byte, 4096), Stamps: &st[i], Owner: completer(func(*blk.Request) { left-- })})
		s.c.Kick(s.w.Time())
		s.w.Now++
	}
	for left > 0 {
		if wake := s.c.Kick(s.w.Time()); left > 0 && wake > s.w.Now && !s.w.Turn(wake) {
			t.Fatal("quiet")
		}
	}
	if a, b := &st[0], &st[1]; a[blk.Begun] != a[blk.Pickup] || b[blk.Begun] < a[blk.LogDone] || b[blk.LogDone] <= b[blk.Begun] {
		t.Errorf("the first %v, the second %v", a, b)
	}
}

// A read that finds the data disk lost is not on its way to it: the disk can be replaced beneath it.
func TestNothingGoesToALostDisk(t *testing.T) {
	s := newSim(6)
	s.c.SetFallback(blktest.NewDisk(s.w, "peer", simDisk, 1000))
	s.c.LoseData(errors.New("gone"))
	done := false
	s.c.Submit(&blk.Request{Op: blk.Read, Length: 4096, Buf: make([]byte, 4096), Owner: completer(func(*blk.Request) { done = true })})
	if done || !s.c.DataQuiet() {
		t.Errorf("done %v, quiet %v", done, s.c.DataQuiet())
	}
}

// While destage is paused the disk gets nothing, until the log is full: then it goes on as far as it must.
func TestPausedDestage(t *testing.T) {
	s := newSim(5)
	s.alone = true // no peer is waited for
	s.c.PauseDestage(true)
	s.load.Left = 60
	for !s.load.Done() {
		if !s.turn() {
			t.Fatal("quiet")
		}
	}
	if n := s.c.count.DestagedBytes; n != 0 && s.c.count.Throttled == 0 {
		t.Fatalf("%d bytes were destaged, and the log was never full", n)
	}
	s.load.Left = 3000 // many times what the log holds: nobody waits for ever
	for !s.load.Done() {
		if !s.turn() {
			t.Fatal("quiet: a write waits for a paused destage")
		}
	}
	if s.c.count.DestagedBytes == 0 {
		t.Fatal("the log was never full")
	}
	s.c.PauseDestage(false)
	s.drain()
	s.verify()
}
