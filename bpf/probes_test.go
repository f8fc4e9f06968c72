package bpf

import (
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

// loop is a loop device on a file; it skips where there can be none.
type loop struct {
	t    *testing.T
	path string
	rdev uint64
	f    *os.File // O_DIRECT
	buf  []byte
}

func newLoop(t *testing.T) *loop { return newLoopSized(t, t.TempDir(), 8<<20) }

// newLoopSized makes its file in dir.
func newLoopSized(t *testing.T, dir string, bytes int) *loop {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, make([]byte, bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	l := &loop{t: t, path: strings.TrimSpace(string(out))}
	t.Cleanup(func() { exec.Command("losetup", "-d", l.path).Run() })
	var st unix.Stat_t
	if err := unix.Stat(l.path, &st); err != nil {
		t.Fatal(err)
	}
	l.rdev = st.Rdev
	if l.f, err = os.OpenFile(l.path, os.O_RDWR|syscall.O_DIRECT, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.f.Close() })
	if l.buf, err = unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(l.buf) })
	l.set("iostats", "1")
	// What opening set off (a look for partitions, say) ends before anything is counted.
	exec.Command("udevadm", "settle", "--timeout=2").Run()
	return l
}

// counts are what the kernel completed: reads, writes, discards, flushes.
func (l *loop) counts() (n [Ops]uint64) {
	return l.stat(map[Op]int{Read: 0, Write: 4, Discard: 11, Flush: 15})
}

// millis is what reads took, in all, by the kernel's own account.
func (l *loop) millis() uint64 { return l.stat(map[Op]int{Read: 3})[Read] }

func (l *loop) stat(fields map[Op]int) (n [Ops]uint64) {
	l.t.Helper()
	raw, err := os.ReadFile("/sys/block/" + filepath.Base(l.path) + "/stat")
	if err != nil {
		l.t.Fatal(err)
	}
	f := strings.Fields(string(raw))
	for op, i := range fields {
		if n[op], err = strconv.ParseUint(f[i], 10, 64); err != nil {
			l.t.Fatal(err)
		}
	}
	return n
}

func (l *loop) set(name, value string) {
	l.t.Helper()
	if err := os.WriteFile("/sys/block/"+filepath.Base(l.path)+"/queue/"+name, []byte(value), 0); err != nil {
		l.t.Fatal(err)
	}
}

// run does n reads, writes, flushes and discards from two threads.
func (l *loop) run(n int) {
	l.t.Helper()
	var wg sync.WaitGroup
	for seed := range uint64(2) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			buf := l.buf[seed<<15 : (seed+1)<<15]
			for range n / 2 {
				at, size := r.Int64N(1<<10)<<12, (1+r.IntN(8))<<12
				var err error
				switch r.IntN(10) {
				case 0:
					err = unix.Fsync(int(l.f.Fd()))
				case 1:
					err = unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, int64(size))
				case 2, 3, 4:
					_, err = l.f.ReadAt(buf[:size], at)
				default:
					_, err = l.f.WriteAt(buf[:size], at)
				}
				if err != nil && err != unix.EOPNOTSUPP {
					l.t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func open(t *testing.T, o Options) *Probes {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// match compares a snapshot with the kernel's own counts.
func match(t *testing.T, l *loop, s *Snapshot, before [Ops]uint64) {
	t.Helper()
	var all uint64
	after := l.counts()
	for op := range Ops {
		h := &s.Hists[op][StageTotal]
		all += h.Count
		if op == WriteZeroes {
			continue // the kernel counts them as writes
		}
		want := after[op] - before[op]
		if op == Write {
			// Nor does it tell from writes the empty one that an fsync is, whose flush is seen here.
			want -= s.Hists[WriteZeroes][StageTotal].Count + s.Hists[Flush][StageTotal].Count
		}
		if h.Count != want {
			t.Errorf("%v: %d counted, the kernel has %d", op, h.Count, want)
		}
		q, d := &s.Hists[op][StageQueue], &s.Hists[op][StageDevice]
		if q.Sum+d.Sum != h.Sum || q.Count != h.Count || d.Count != h.Count {
			t.Errorf("%v: %d ns queued + %d ns in the device, %d ns in total", op, q.Sum, d.Sum, h.Sum)
		}
		var n uint64
		for _, b := range h.Buckets {
			n += b
		}
		if n != h.Count || h.Count > 0 && (h.Min == 0 || h.Min > h.Max || h.Max > uint64(time.Minute)) {
			t.Errorf("%v: %d in buckets of %d, from %d to %d ns", op, n, h.Count, h.Min, h.Max)
		}
	}
	if s.Stats.Completed != all || s.Stats.Full != 0 {
		t.Errorf("%+v, %d in the histograms", s.Stats, all)
	}
}

func TestEveryRequestIsCounted(t *testing.T) {
	l := newLoop(t)
	for _, c := range [][2]string{{"1", "none"}, {"0", "none"}, {"0", "mq-deadline"}, {"1", "mq-deadline"}} {
		iostats := c[0]
		t.Run("iostats="+iostats+" "+c[1], func(t *testing.T) {
			l.set("iostats", iostats)
			l.set("scheduler", c[1])
			p := open(t, Options{Cost: true})
			l.run(200)
			begun := time.Now()
			before, took := l.counts(), l.millis()
			d, err := p.AddDevice(l.rdev, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			l.run(2000)
			s, err := d.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			for op := range Ops {
				if h := &s.Hists[op][StageTotal]; h.Max > uint64(time.Since(begun)) {
					t.Errorf("a %v took %d ns, longer than it is counted", op, h.Max)
				}
			}
			if iostats == "1" {
				match(t, l, s, before)
				mine, kernel := float64(s.Hists[Read][StageTotal].Sum)/1e6, float64(l.millis()-took)
				if t.Logf("reads took %.1f ms, the kernel says %.0f", mine, kernel); math.Abs(mine-kernel) > 5+0.15*kernel {
					t.Errorf("reads took %.1f ms, the kernel says %.0f", mine, kernel)
				}
				if s.Hists[Read][StageQueue].Sum == 0 {
					t.Error("nobody knows when a request was made")
				}
				if s.Stats.Unseen == 0 {
					t.Error("no flush completed twice: this kernel is not as described")
				}
			} else if s.Stats.Completed < 500 || s.Hists[Write][StageTotal].Min == 0 {
				t.Errorf("%+v", s.Stats)
			}
			if s.Stats.Issued != s.Stats.Completed || s.Stats.Matched != 0 {
				t.Errorf("%+v", s.Stats)
			}
			for op := range Ops {
				t.Logf("%-12v %5d  p50 %d ns  p99 %d ns", op, s.Hists[op][StageTotal].Count, s.Hists[op][StageTotal].Percentile(50), s.Hists[op][StageTotal].Percentile(99))
			}
			for _, r := range p.Programs() {
				t.Logf("%s attached %v %s: %d runs, %d ns, %d missed", r.Tracepoint, r.Attached, r.Why, r.Runs, r.Nanos, r.Missed)
				if !r.Attached && r.Tracepoint != "io_uring_complete" {
					t.Errorf("%s: %s", r.Tracepoint, r.Why)
				}
				if r.Name == "on_complete" && (r.Runs < 500 || r.Nanos == 0) {
					t.Errorf("%s: no cost", r.Name)
				}
			}
			if list, err := p.Inflight(); err != nil || len(list) != 0 {
				t.Errorf("%d in flight, %v", len(list), err)
			}
		})
	}
}

// Each device has its own counts, and what belongs to none has no effect.
func TestSeveralDevices(t *testing.T) {
	a, b, other := newLoop(t), newLoop(t), newLoop(t)
	p := open(t, Options{Devices: 2, NoRing: true})
	before := [2][Ops]uint64{a.counts(), b.counts()}
	var devices []*Device
	for _, l := range []*loop{a, b} {
		d, err := p.AddDevice(l.rdev, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
	}
	if _, err := p.AddDevice(other.rdev, 0, 0); err == nil {
		t.Error("a third device")
	}
	if p, err := Open(Options{Devices: MaxDevices + 1}); err == nil {
		t.Error("too many devices", p.Close())
	}
	twice := open(t, Options{Devices: 2})
	if _, err := twice.AddDevice(a.rdev, 0, 0); err != nil {
		t.Error(err)
	}
	if _, err := twice.AddDevice(a.rdev, 0, 0); err == nil {
		t.Error("one device twice")
	}
	a.run(50)
	other.run(50)
	b.run(200)
	for i, l := range []*loop{a, b} {
		s, err := devices[i].Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		match(t, l, s, before[i])
	}
}

func TestOutliersAndTheirRate(t *testing.T) {
	l := newLoop(t)
	p := open(t, Options{})
	d, err := p.AddDevice(l.rdev, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := func(n int) {
		t.Helper()
		for i := range n {
			if _, err := l.f.ReadAt(l.buf[:4096], int64(i)<<12); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(5)
	if list, err := p.Outliers(); err != nil || len(list) != 0 {
		t.Fatalf("%d outliers without a threshold, %v", len(list), err)
	}
	if err := d.SetThreshold(time.Hour, 10); err != nil {
		t.Fatal(err)
	}
	read(5)
	if err := d.SetThreshold(1, 1000); err != nil {
		t.Fatal(err)
	}
	read(7)
	list, err := p.Outliers()
	if err != nil || len(list) != 7 {
		t.Fatalf("%d outliers, want 7, %v", len(list), err)
	}
	for i, r := range list {
		if r.Op != Read || r.Bytes != 4096 || r.Sector != uint64(i)*8 || r.Start > r.Issue || r.Complete <= r.Issue || r.Device != d || r.Tag != -1 {
			t.Errorf("outlier %d: %+v", i, r)
		}
	}
	if err := d.SetThreshold(1, 3); err != nil {
		t.Fatal(err)
	}
	read(50)
	list, err = p.Outliers()
	s, err2 := d.Snapshot()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	if len(list) > 12 || s.Stats.Slow != 57 || s.Stats.Shed != 57-7-uint64(len(list)) {
		t.Errorf("%d told, %+v", len(list), s.Stats)
	}
}

// harness loads the program that accounts requests made up here.
func harness(t *testing.T) (prog *ebpf.Program, p *Probes, d *Device) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	spec, err := loadLatency()
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Programs {
		if name != latencyProgTestAccount {
			delete(spec.Programs, name)
		}
	}
	if err := size(spec, Options{}); err != nil {
		t.Fatal(err)
	}
	p = &Probes{devices: make([]*Device, 0, 1)}
	if p.coll, err = ebpf.NewCollection(spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.coll.Close() })
	if d, err = p.AddDevice(7<<8, 0, 0); err != nil {
		t.Fatal(err)
	}
	return p.coll.Programs[latencyProgTestAccount], p, d
}

func run(t *testing.T, prog *ebpf.Program, d *Device, m latencyMadeUp) {
	t.Helper()
	m.Dev = d.v.Dev
	if ret, err := prog.Run(&ebpf.RunOptions{Context: m}); err != nil || ret != 0 {
		t.Fatalf("%d, %v", ret, err)
	}
}

// The kernel's buckets are Bucket's.
func TestHistogramInTheKernel(t *testing.T) {
	prog, _, d := harness(t)
	var want Histogram
	r := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		ns := r.Uint64() >> r.UintN(64)
		want.Record(ns)
		run(t, prog, d, latencyMadeUp{Complete: ns})
	}
	for e := range 64 {
		for _, ns := range []uint64{1<<e - 1, 1 << e} {
			want.Record(ns)
			run(t, prog, d, latencyMadeUp{Complete: ns})
		}
	}
	s, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Hists[Read][StageTotal]; got != want {
		t.Errorf("%d, %d, %d, %d, want %d, %d, %d, %d", got.Count, got.Sum, got.Min, got.Max, want.Count, want.Sum, want.Min, want.Max)
	}
}

// Stages are what each stamp added, whatever order the stamps are in; they add up to the total.
func TestJoinInTheKernel(t *testing.T) {
	for _, c := range []struct {
		name   string
		slot   latencySlot
		stages map[Stage]uint64
	}{
		{"no stamps", latencySlot{}, map[Stage]uint64{StageQueue: 100, StageDevice: 900, StageTotal: 1000}},
		{"left by another request, not committed", latencySlot{Stamps: [7]uint64{1}}, map[Stage]uint64{StageQueue: 100, StageDevice: 900, StageTotal: 1000}},
		{"logged", latencySlot{Stamps: [7]uint64{1300, 0, 1500, 0, 0, 0, 1550}, Posted: 1200},
			map[Stage]uint64{StageQueue: 100, StageDispatch: 200, StageRing: 100, StageWake: 100, StageLog: 200, StageCommit: 50, StageComplete: 450, StageDevice: 900, StageTotal: 1000}},
		{"mirrored, acknowledged before the log was done", latencySlot{Stamps: [7]uint64{1300, 0, 1500, 0, 1350, 1490, 1550}},
			map[Stage]uint64{StageQueue: 100, StageDispatch: 200, StageLog: 200, StageSent: 0, StageAcked: 0, StageCommit: 50, StageComplete: 450, StageDevice: 900, StageTotal: 1000}},
		{"acknowledged last", latencySlot{Stamps: [7]uint64{1300, 0, 1400, 0, 1450, 1900, 1900}},
			map[Stage]uint64{StageQueue: 100, StageDispatch: 200, StageLog: 100, StageSent: 50, StageAcked: 450, StageCommit: 0, StageComplete: 100, StageDevice: 900, StageTotal: 1000}},
		{"picked up by a clock read before it was posted", latencySlot{Stamps: [7]uint64{1190, 0, 0, 1800, 0, 0, 1800}, Posted: 1200},
			map[Stage]uint64{StageQueue: 100, StageDispatch: 90, StageRing: 100, StageWake: 0, StageData: 610, StageCommit: 0, StageComplete: 200, StageDevice: 900, StageTotal: 1000}},
		{"waited for an append", latencySlot{Stamps: [7]uint64{1300, 1400, 1500, 0, 0, 0, 1550}},
			map[Stage]uint64{StageQueue: 100, StageDispatch: 200, StageServer: 100, StageLog: 100, StageCommit: 50, StageComplete: 450, StageDevice: 900, StageTotal: 1000}},
		{"stamped in the future", latencySlot{Stamps: [7]uint64{1300, 0, 0, 0, 0, 0, 5000}},
			map[Stage]uint64{StageQueue: 100, StageDispatch: 200, StageCommit: 700, StageComplete: 0, StageDevice: 900, StageTotal: 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			prog, _, d := harness(t)
			run(t, prog, d, latencyMadeUp{Io: latencyIo{Start: 1000, Issue: 1100, Op: uint32(Write)}, Slot: c.slot, HasSlot: 1, Complete: 2000, Status: 10})
			s, err := d.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			var sum uint64
			for st := range Stages {
				h := &s.Hists[Write][st]
				want, there := c.stages[st]
				if there != (h.Count == 1) || h.Sum != want {
					t.Errorf("%v: %d of %d ns, want %d", st, h.Count, h.Sum, want)
				}
				if st <= StageComplete {
					sum += h.Sum
				}
			}
			if s.Stats.Matched == 1 && sum != 1000 {
				t.Errorf("the stages add up to %d ns of 1000", sum)
			}
			if s.Stats.Failed != 1 || s.Stats.Completed != 1 || s.Hists[Read][StageTotal].Count != 0 {
				t.Errorf("%+v", s.Stats)
			}
		})
	}
}

// A read's total is counted once more by the farthest place that a part of it came from, where a cache took it.
func TestWhereReadsAreServed(t *testing.T) {
	for want, stamps := range map[Stage]latencySlot{
		StageFromRAM:  {Stamps: [Stamps]uint64{Begun: 1200, Committed: 1500}},
		StageFromLog:  {Stamps: [Stamps]uint64{Begun: 1200, LogDone: 1300, Committed: 1500}},
		StageFromData: {Stamps: [Stamps]uint64{Begun: 1200, LogDone: 1400, DataDone: 1300, Committed: 1500}},
		StageFromPeer: {Stamps: [Stamps]uint64{Begun: 1200, DataDone: 1200, PeerSent: 1300, PeerAcked: 1400, Committed: 1500}},
		Stages:        {Stamps: [Stamps]uint64{DataDone: 1300, Committed: 1500}}, // no cache
	} {
		prog, _, d := harness(t)
		for _, op := range []Op{Read, Write} {
			run(t, prog, d, latencyMadeUp{Io: latencyIo{Start: 1000, Issue: 1100, Op: uint32(op)}, Slot: stamps, HasSlot: 1, Complete: 2000})
		}
		s := snapshot(t, d)
		for st := StageFromRAM; st <= StageFromPeer; st++ {
			if h := &s.Hists[Read][st]; h.Count == 1 != (st == want) || h.Count > 0 && h.Sum != 1000 || s.Hists[Write][st].Count != 0 {
				t.Errorf("%v of stamps %v: %d, %d ns", st, stamps.Stamps, h.Count, h.Sum)
			}
		}
	}
}

func TestSlots(t *testing.T) {
	l := newLoop(t)
	p := open(t, Options{Slots: 256})
	d, err := p.AddDevice(l.rdev, 2, 128)
	if err != nil {
		t.Fatal(err)
	}
	s := d.Slots()
	if s.Len() != 256 {
		t.Fatalf("%d slots", s.Len())
	}
	s.Stamp(255, PeerAcked, 7)
	if _, got, posted := s.read(255); got != [Stamps]int64{PeerAcked: 7} || posted != 0 {
		t.Error(got, posted)
	}
	var k latencySlot
	if err := p.coll.Maps[latencyMapSlots].Lookup(uint32(255), &k); err != nil || k.Stamps[PeerAcked] != 7 {
		t.Errorf("the kernel sees %v, %v", k.Stamps, err)
	}
	// Issue clears a slot: what is stamped before is not taken for the request's.
	for i := range s.Len() {
		s.Stamp(i, Committed, 1)
	}
	if _, err := l.f.ReadAt(l.buf[:4096], 0); err != nil {
		t.Fatal(err)
	}
	cleared := 0
	for i := range s.Len() {
		if _, got, _ := s.read(i); got[Committed] == 0 {
			cleared++
		}
	}
	snap, err := d.Snapshot()
	if err != nil || cleared != 1 || snap.Stats.Matched != 0 || snap.Stats.Completed != 1 {
		t.Errorf("%d slots cleared, %+v, %v", cleared, snap.Stats, err)
	}
}

func TestInflight(t *testing.T) {
	l := newLoop(t)
	p := open(t, Options{})
	d, err := p.AddDevice(l.rdev, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(3000)
	}()
	seen, end := 0, time.Time{}
	for left := 1; left > 0; { // once all of them are answered there are those at most of whoever else looks at a new disk
		select {
		case <-done:
			if end.IsZero() {
				end = time.Now().Add(20 * time.Second)
			}
		default:
		}
		list, err := p.Inflight()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			seen++
			if r.Device != d || r.Complete != 0 || r.Start == 0 || r.Issue != 0 && r.Issue < r.Start {
				t.Fatalf("%+v", r)
			}
		}
		if !end.IsZero() {
			left = len(list)
			if time.Now().After(end) {
				t.Fatalf("%d in flight at the end: %+v", left, list)
			}
		}
	}
	if seen == 0 {
		t.Error("nothing seen in flight")
	}
}

func TestReasons(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	p := open(t, Options{NoRing: true})
	for _, r := range p.Programs() {
		if r.Attached == (r.Why != "") || r.Attached == (r.Tracepoint == "io_uring_complete") {
			t.Errorf("%+v", r)
		}
	}
	if _, err := p.AddDevice(7<<8, 1, 128); err == nil {
		t.Error("slots from nowhere")
	}
}

// The server's ring tells when a tag's completion was posted.
func TestPosted(t *testing.T) {
	l := newLoop(t)
	p := open(t, Options{Slots: 8})
	d, err := p.AddDevice(l.rdev, 2, 4)
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Programs()[4]; !r.Attached {
		t.Skip(r.Why)
	}
	ring, err := uring.New(uring.Options{Entries: 8})
	if err != nil {
		t.Skip(err)
	}
	defer ring.Close()
	if err := d.AddSource(os.Getpid(), 9, 1); err != nil {
		t.Fatal(err)
	}
	if err := d.AddSource(os.Getpid(), 9+1024, 0); err == nil {
		t.Error("two sources in one place")
	}
	for _, data := range []uint64{9<<48 | 2, (9+1024)<<48 | 1, 9<<48 | 4, 8<<48 | 1} { // tag 2; no tag of this queue; another source
		e := ring.Get()
		e.Opcode, e.FD, e.UserData = 0, -1, data
	}
	if err := ring.Submit(); err != nil {
		t.Fatal(err)
	}
	for i := range d.Slots().Len() {
		if _, _, posted := d.Slots().read(i); (posted != 0) != (i == 4+2) {
			t.Errorf("slot %d posted at %d", i, posted)
		}
	}
}

// Stamps made while a request is in flight are joined with it, with queue and tag as the driver has them.
func TestStampsOfRequestsInFlight(t *testing.T) {
	l := newLoop(t)
	p := open(t, Options{Slots: 8 * 256, NoRing: true})
	d, err := p.AddDevice(l.rdev, 8, 256)
	if err != nil {
		t.Fatal(err)
	}
	var ts unix.Timespec
	now := func() int64 {
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
		return ts.Nano()
	}
	s := &Snapshot{}
	for end := time.Now().Add(20 * time.Second); s.Stats.Matched < 20 && time.Now().Before(end); {
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(1000)
		}()
		for going := true; going; {
			select {
			case <-done:
				going = false
			default:
			}
			list, err := p.Inflight()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list {
				if r.Issue == 0 {
					continue
				}
				if r.Tag < 0 {
					t.Fatalf("no tag: %+v", r)
				}
				i := r.Queue*d.Slots().Depth + r.Tag
				d.Slots().Stamp(i, Pickup, now())
				d.Slots().Stamp(i, Committed, now())
			}
		}
		if s, err = d.Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	if s.Stats.Matched < 20 {
		t.Skipf("%d requests were slow enough to be stamped by another process", s.Stats.Matched)
	}
	var n, parts, total uint64
	for op := range Ops {
		h := &s.Hists[op]
		n += h[StageComplete].Count
		if h[StageComplete].Count != h[StageDispatch].Count || h[StageComplete].Count != h[StageCommit].Count || h[StageLog].Count != 0 {
			t.Errorf("%v: %d, %d and %d of the stages", op, h[StageDispatch].Count, h[StageCommit].Count, h[StageComplete].Count)
		}
		parts += h[StageDispatch].Sum + h[StageCommit].Sum + h[StageComplete].Sum
		total += h[StageDevice].Sum
	}
	if n != s.Stats.Matched || parts == 0 || parts > total {
		t.Errorf("%d of %d matched; %d ns of %d", n, s.Stats.Matched, parts, total)
	}
}
