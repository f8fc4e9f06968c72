package dcd

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// timed is a disk of a fixed service time in virtual time, which serves depth requests at once and
// keeps nothing.
type timed struct {
	ram
	ns    int64
	depth int
	now   *int64
	queue blk.Queue
	busy  []timedRequest // in the order of their ends
}

type timedRequest struct {
	r  *blk.Request
	at int64
}

func (d *timed) Submit(r *blk.Request) { d.queue.Push(r); d.begin() }

func (d *timed) begin() {
	for len(d.busy) < d.depth && d.queue.Head() != nil {
		d.busy = append(d.busy, timedRequest{d.queue.Pop(), *d.now + d.ns})
	}
}

// next is when something completes; end completes what is due.
func (d *timed) next() int64 {
	if len(d.busy) == 0 {
		return blk.Never
	}
	return d.busy[0].at
}

func (d *timed) end() {
	for len(d.busy) > 0 && d.busy[0].at <= *d.now {
		r := d.busy[0].r
		d.busy = d.busy[1:]
		r.Err = 0
		r.Owner.Complete(r)
		d.begin()
	}
}

// exchanged gives way to another device once the log is made and opened.
type exchanged struct{ blk.Device }

// course writes n random blocks at depth 32, four times what the log holds and more, to a cache over
// disks of these service times, and counts the writes of each second.
func course(t *testing.T, logBytes, span int64, n int, log, data timed) (seconds []int) {
	t.Helper()
	now := int64(1e9)
	w := blktest.NewWorld(1)
	made := blktest.NewDisk(w, "log", logBytes, 1000)
	if err := seglog.Create(made, seglog.Super{DiskBytes: span, DiskBlock: 512}, w.Drive); err != nil {
		t.Fatal(err)
	}
	log.now, data.now, log.size, data.size = &now, &now, logBytes, span
	swap := &exchanged{made}
	c, err := Open(Options{Data: &data, Log: swap, Incarnation: 1}, func() (blk.Instant, error) { data.now = &now; return w.Drive() })
	if err != nil {
		t.Fatal(err)
	}
	swap.Device = &log
	s := new(sink)
	reqs := make([]blk.Request, 32)
	for i := range reqs {
		reqs[i] = blk.Request{Op: blk.Write, Length: 4096, Buf: make([]byte, 4096)}
	}
	free := make([]*blk.Request, 0, len(reqs))
	for i := range reqs {
		free = append(free, &reqs[i])
	}
	owner := completer(func(r *blk.Request) {
		if r.Err != 0 {
			t.Fatal(r.Err)
		}
		s.done++
		free = append(free, r)
	})
	rnd := rand.New(rand.NewPCG(1, 1))
	issued, counted := 0, 0
	for second := now + 1e9; s.done < n; {
		for issued < n && len(free) > 0 {
			r := free[len(free)-1]
			free = free[:len(free)-1]
			r.Offset, r.Owner = rnd.Int64N(span/4096)*4096, owner
			c.Submit(r)
			issued++
		}
		wake := c.Kick(blk.Instant{Mono: now})
		if len(free) > 0 && issued < n {
			continue
		}
		next := min(wake, log.next(), data.next())
		for now < next && next > second {
			seconds = append(seconds, s.done-counted)
			counted = s.done
			second += 1e9
		}
		now = max(now+1, next)
		log.end()
		data.end()
	}
	return seconds
}

type completer func(*blk.Request)

func (f completer) Complete(r *blk.Request) { f(r) }

// Random writes that go on for long after the log is full are served evenly, as fast as the disk
// takes them: there is no second in which the client waits, also not when the log fills for the first time.
func TestSustainedWritesAreEven(t *testing.T) {
	for _, x := range []struct {
		name       string
		log        int64
		data       timed
		laps       int
		rawASecond int
	}{
		{"a disk with an arm", 64 << 20, timed{ns: 8_000_000, depth: 1}, 4, 125},
		{"a slow disk without one", 64 << 20, timed{ns: 2_000_000, depth: 4}, 4, 2000},
		{"an SSD, at depth 1", 64 << 20, timed{ns: 80_000, depth: 1}, 20, 12_500},
	} {
		seconds := course(t, x.log, 8*x.log, x.laps*int(x.log/4096), timed{ns: 15_000, depth: 128}, x.data)
		if len(seconds) < 6 {
			t.Errorf("%s: over after %d seconds: %v", x.name, len(seconds), seconds)
			continue
		}
		steady := seconds[1 : len(seconds)-1] // in the first one the log fills
		sum := 0
		for _, n := range steady {
			sum += n
		}
		if low, mean := slices.Min(steady), sum/len(steady); low < mean/2 || mean < x.rawASecond {
			t.Errorf("%s: %d writes in a second, %d on average; the disk alone takes %d: %v", x.name, low, mean, x.rawASecond, seconds)
		}
	}
}

// One client that reads, a request at a time, hardly notices that destage drains a full log.
func TestReaderBesideDestage(t *testing.T) {
	const logBytes, span = 64 << 20, 1 << 30
	for _, parallel := range []int{32, 8} { // requests that the SSD works on at once
		now := int64(1e9)
		w := blktest.NewWorld(1)
		made := blktest.NewDisk(w, "log", logBytes, 1000)
		if err := seglog.Create(made, seglog.Super{DiskBytes: span, DiskBlock: 512}, w.Drive); err != nil {
			t.Fatal(err)
		}
		log, data := &timed{ram: ram{logBytes}, ns: 15_000, depth: 128, now: &now}, &timed{ram: ram{span}, ns: 80_000, depth: parallel, now: &now}
		swap := &exchanged{made}
		c, err := Open(Options{Data: data, Log: swap, Incarnation: 1}, w.Drive)
		if err != nil {
			t.Fatal(err)
		}
		swap.Device = log
		rnd := rand.New(rand.NewPCG(1, 1))
		buf := make([]byte, 4096)
		one := func(op blk.Op, off int64) (nanos int64) {
			begun, done := now, false
			c.Submit(&blk.Request{Op: op, Offset: off, Length: 4096, Buf: buf, Owner: completer(func(*blk.Request) { done = true })})
			for {
				wake := c.Kick(blk.Instant{Mono: now})
				if done {
					return now - begun
				}
				now = max(now+1, min(wake, log.next(), data.next()))
				log.end()
				data.end()
			}
		}
		p99 := func(n int, busy bool) int64 {
			var all []int64
			for range n {
				if busy && c.p.share() == 0 {
					break // it is drained as far as it has to be
				}
				all = append(all, one(blk.Read, span/2+rnd.Int64N(span/2/4096)*4096))
			}
			if len(all) < 200 {
				t.Fatalf("only %d reads", len(all))
			}
			slices.Sort(all)
			return all[len(all)*99/100]
		}
		alone := p99(2000, false)
		c.HoldDestage(true)
		for c.p.fill() < 79 {
			one(blk.Write, rnd.Int64N(span/2/4096)*4096)
		}
		c.HoldDestage(false)
		beside := p99(1<<20, true)
		if beside > 2*alone {
			t.Errorf("%d at once: p99 of reads %d ns alone, %d ns beside destage", parallel, alone, beside)
		}
		t.Logf("%d at once: p99 of reads %d ns alone, %d ns beside destage", parallel, alone, beside)
	}
}
