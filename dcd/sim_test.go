package dcd

import (
	"fmt"
	"math"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

const (
	simDisk = 512 << 10
	simLog  = 192 << 10
)

// failure ends a run; it is a panic value so that any callback can raise it.
type failure struct{ msg string }

func fail(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

// sim is one volume on simulated disks, over several lives.
type sim struct {
	w         *blktest.World
	data, log *blktest.Disk
	oracle    *blktest.Oracle
	c         *Cache
	check     *blktest.Check
	load      *blktest.Workload
	floor     seglog.LSN // nothing up to here may be cut
	stuck     bool       // the limits stand still, as when a peer is slow
	alone     bool       // no peer: what is durable here may be acknowledged and destaged
	v         variant    // see writecache_test.go
	crashes   int
	cuts      int
}

func simSuper() seglog.Super {
	return seglog.Super{Volume: seglog.UUID{1}, Log: seglog.UUID{2}, Term: seglog.Term{Number: 1, ID: 1}, DiskBytes: simDisk, DiskBlock: 512,
		ChunkBytes: 32 << 10, MaxSegmentBytes: 8 << 10, DiskIdentity: "sim-data"}
}

func newSim(seed uint64) *sim { return newSimWith(seed, variant{}) }

func newSimWith(seed uint64, v variant) *sim {
	w := blktest.NewWorld(seed)
	s := &sim{w: w, data: blktest.NewDisk(w, "data", simDisk, 400_000), log: blktest.NewDisk(w, "log", simLog, 60_000), oracle: blktest.NewOracle(simDisk), v: v}
	s.oracle.Volatile = v.on
	super := simSuper()
	f, err := Fingerprint(s.data, simDisk, w.Drive)
	if err == nil {
		super.Fingerprint = f
		err = seglog.Create(s.log, super, w.Drive)
	}
	if err != nil {
		fail("create: %v", err)
	}
	s.data.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes = seed%4 == 1, seed%4 < 2 })
	s.open()
	return s
}

func (s *sim) open() {
	o := Options{Data: s.data, Log: s.log, Incarnation: s.w.Rand.Uint64(), DestageBytes: 32 << 10, IdleNanos: 300_000}
	s.v.options(&o)
	c, err := Open(o, s.w.Drive)
	if err != nil {
		fail("open: %v", err)
	}
	s.c = c
	s.check = blktest.NewCheck(c, fail)
	s.load = blktest.NewWorkload(s.w, s.check, s.oracle, 12, fail)
	s.load.MaxBytes = 7 << 10
	if c.y.shortest = 512; s.v.bypass {
		s.load.Runs = 60
	}
	s.load.Discards, s.load.Zeroes, s.load.MaxZero = 4, 3, 96<<10
	if s.v.bypass {
		s.load.Discards, s.load.Zeroes = 1, 0
	}
	s.limits()
}

// limits moves AckLimit and DestageLimit as a mirror would: never back, sometimes not at all.
func (s *sim) limits() {
	if s.w.Rand.IntN(60) == 0 {
		s.stuck = !s.stuck
	}
	if !s.stuck {
		s.floor = max(s.floor, s.c.Log().Durable())
	}
	s.c.AckLimit, s.c.DestageLimit = s.floor, s.floor
	if s.alone {
		s.c.AckLimit, s.c.DestageLimit = math.MaxUint64, math.MaxUint64
		s.floor = s.c.Log().Durable()
	}
}

// turn is one batch of the loop.
func (s *sim) turn() bool {
	s.load.Pump()
	s.limits()
	wake := s.check.Kick(s.w.Time())
	if wake <= s.w.Now {
		return true
	}
	if s.w.Turn(wake) {
		return true
	}
	was := s.stuck
	s.stuck = false // everything waits for the peer: let it move
	return was
}

// verify reads every sector and makes what is read the truth from now on.
func (s *sim) verify() {
	b, err := blktest.ReadAll(s.c, s.drive)
	if err != nil {
		fail("read everything: %v", err)
	}
	if err := s.oracle.Pin(b, 0); err != nil {
		fail("%v", err)
	}
}

func (s *sim) drive() (blk.Instant, error) {
	if !s.w.Step() {
		return s.w.Time(), blktest.ErrQuiet
	}
	return s.w.Time(), nil
}

// crash ends a life by a power cut of both disks at one instant, or by killing the server.
func (s *sim) crash() {
	s.crashes++
	s.v.past += s.c.y.count
	limit := s.floor
	if s.w.Rand.IntN(3) == 0 {
		s.data.Kill()
		s.log.Kill()
		for s.data.Busy()+s.log.Busy() > 0 {
			if !s.w.Step() {
				fail("a dead server's I/O never ended")
			}
		}
		s.data, s.log = s.data.Reopen(), s.log.Reopen()
		s.v.killed(s)
	} else {
		s.data, s.log = s.data.Crash(), s.log.Crash()
		s.v.cut(s)
	}
	s.open()
	if s.c.Log().Sealed() > limit && limit >= s.c.Log().First()-1 && s.w.Rand.IntN(2) == 0 && !s.v.on {
		// The peer never had the tail and says so: nothing of it was acknowledged.
		if err := s.c.Cut(limit, s.w.Drive); err != nil {
			fail("cut: %v", err)
		}
		s.cuts++
	}
	s.floor = s.c.Log().Sealed()
	s.stuck = false
	s.limits()
	s.verify()
}

// finish lets everything end and checks that the data disk alone holds it.
func (s *sim) finish() {
	s.drain()
	if err := s.oracle.Pin(s.data.Crash().Bytes(), 0); err != nil {
		fail("the data disk alone: %v", err)
	}
}

// drain lets everything end, destage too.
func (s *sim) drain() {
	s.load.Left = 0
	s.stuck = false
	s.c.DestageAll(true)
	for n := 0; ; n++ {
		s.load.Pump()
		s.floor = max(s.floor, s.c.Log().Durable())
		s.c.AckLimit, s.c.DestageLimit = s.floor, s.floor
		if wake := s.check.Kick(s.w.Time()); s.load.Done() && s.c.Dirty() == 0 {
			break
		} else if wake > s.w.Now && !s.w.Turn(wake) {
			fail("quiet with %d bytes dirty, %d requests out", s.c.Dirty(), s.load.InFlight())
		}
		if n > 200000 {
			fail("it never becomes quiet")
		}
	}
}

// runSim runs one seed to its end; the error is what the oracle or a contract found.
func runSim(seed uint64) (s *sim, err error) { return runSimWith(seed, variant{}) }

func runSimWith(seed uint64, v variant) (s *sim, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("seed %d: %s", seed, f.msg)
		}
	}()
	s = newSimWith(seed, v)
	s.alone = seed%3 == 0 && seed != 1757
	for range 4 {
		s.load.Left = 1 << 30
		for range 50 + s.w.Rand.IntN(1500) {
			if !s.turn() {
				fail("quiet under load")
			}
		}
		s.crash()
	}
	s.load.Left = 200
	for !s.load.Done() {
		s.stuck = false
		if !s.turn() {
			fail("quiet under load")
		}
	}
	s.finish()
	return s, nil
}

// regressions are seeds that once failed.
var regressions = []uint64{1757}

func TestSimulation(t *testing.T) {
	n, crashes, cuts, seen := blktest.Seeds(t, 200), 0, 0, map[uint64]bool{}
	var destaged, superseded, zeroed uint64
	run := func(seed uint64) {
		s, err := runSim(seed)
		if err != nil {
			t.Fatal(err)
		}
		seen[s.w.Trace] = true
		crashes += s.crashes
		cuts += s.cuts
		zeroed += s.c.count.ZeroedBytes
		destaged += s.c.count.DestagedBytes
		superseded += s.c.count.SupersededBytes
	}
	for seed := range uint64(n) {
		run(seed)
	}
	for _, seed := range regressions {
		run(seed)
	}
	if s, err := runSim(1); err != nil || !seen[s.w.Trace] {
		t.Fatalf("seed 1 is not deterministic (%v)", err)
	}
	if cuts == 0 || destaged == 0 || superseded == 0 || zeroed == 0 {
		t.Fatalf("the simulation tests nothing: %d cuts, %d bytes destaged, %d superseded", cuts, destaged, superseded)
	}
	t.Logf("%d seeds, %d crashes, %d tails cut, %d distinct histories", n, crashes, cuts, len(seen))
}
