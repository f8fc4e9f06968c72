package uring

import (
	"errors"
	"math"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type counter struct{ n, res int }

func (c *counter) Handle(q CQE, _ int64) { c.n++; c.res = int(q.Res) }

// onLoop runs f in a goroutine that owns a loop, as every user does.
func onLoop(t *testing.T, o LoopOptions, f func(l *Loop)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err := NewLoop(o)
		if err != nil {
			t.Error(err)
			return
		}
		f(l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	<-done
}

func TestLoopKicksOncePerBatch(t *testing.T) {
	onLoop(t, LoopOptions{}, func(l *Loop) {
		var c counter
		id := l.Add(&c)
		batches := 0
		err := l.Run(func(now int64) int64 {
			if batches++; batches == 100 {
				l.Stop()
				return math.MaxInt64
			}
			e := l.Get()
			e.PrepNop()
			e.UserData = id | 5
			return math.MaxInt64
		})
		if err != nil || c.n < 98 {
			t.Error(err, c.n, batches)
		}
	})
}

func TestDeadlineWakesTheLoop(t *testing.T) {
	onLoop(t, LoopOptions{}, func(l *Loop) {
		var first, second int64
		err := l.Run(func(now int64) int64 {
			if first == 0 {
				first = now
			}
			if now >= first+20e6 {
				second = now
				l.Stop()
			}
			return first + 20e6
		})
		if err != nil || second < first+20e6 {
			t.Error(err, second-first)
		}
	})
}

// Posts and wake-ups from many goroutines are never lost, and posts keep their order.
func TestPostAndWake(t *testing.T) {
	const each, posters = 500, 4
	var ran [posters]int
	var total atomic.Int64
	l := make(chan *Loop)
	done := make(chan error)
	go func() {
		lp, err := NewLoop(LoopOptions{})
		if err != nil {
			close(l)
			done <- err
			return
		}
		l <- lp
		err = lp.Run(func(int64) int64 { return math.MaxInt64 })
		lp.Close()
		done <- err
	}()
	lp := <-l
	if lp == nil {
		t.Fatal(<-done)
	}
	for p := range posters {
		go func() {
			for i := range each {
				lp.Post(func() {
					if ran[p] != i {
						t.Errorf("poster %d: %d ran after %d", p, i, ran[p])
					}
					ran[p]++
					if total.Add(1) == each*posters {
						lp.Stop()
					}
				})
			}
		}()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if lp.Post(func() {}) {
		t.Error("a stopped loop took a function")
	}
}

// More entries than the queue has are all submitted, and a removed source is told nothing.
func TestLoopSubmitsAFullQueue(t *testing.T) {
	onLoop(t, LoopOptions{Options{Entries: 8}}, func(l *Loop) {
		var c, gone counter
		id, dead := l.Add(&c), l.Add(&gone)
		for range 100 {
			e := l.Get()
			e.PrepNop()
			e.UserData = id
		}
		e := l.Get()
		e.PrepNop()
		e.UserData = dead
		l.Remove(dead)
		for c.n < 100 || l.Dropped < 1 {
			if _, err := l.Once(math.MaxInt64); err != nil {
				t.Error(err)
				return
			}
		}
		if c.n != 100 || gone.n != 0 || l.Dropped != 1 {
			t.Error(c.n, gone.n, l.Dropped)
		}
	})
}

// A message from another ring wakes a loop with DEFER_TASKRUN.
func TestMsgRing(t *testing.T) {
	onLoop(t, LoopOptions{}, func(l *Loop) {
		var c counter
		id := l.Add(&c)
		fd := l.Ring().FD()
		sent := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // a ring belongs to the thread that made it
			r, err := New(Options{})
			if err == nil {
				r.Get().PrepMsgRing(int32(fd), 42, id|1, 0)
				err = r.SubmitAndWait(1, 10e9)
				r.Close()
			}
			sent <- err
		}()
		for c.n == 0 {
			if _, err := l.Once(math.MaxInt64); err != nil {
				t.Error(err)
				break
			}
			select {
			case err := <-sent: // it was sent, or never will be
				if sent <- err; err != nil {
					t.Fatal(err)
				}
			default:
			}
		}
		if err := <-sent; err != nil || c.res != 42 {
			t.Error(err, c)
		}
	})
}

func TestLoopLeavesNoDescriptors(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range d {
			if s, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && (strings.Contains(s, "io_uring") || strings.Contains(s, "eventfd")) {
				n++
			}
		}
		return n
	}
	before := count()
	for range 20 {
		onLoop(t, LoopOptions{}, func(l *Loop) {
			if _, err := l.Once(0); err != nil {
				t.Error(err)
			}
		})
	}
	if n := count(); n > before {
		t.Fatalf("%d ring descriptors, %d before", n, before)
	}
}

func TestBatchAllocatesNothing(t *testing.T) {
	onLoop(t, LoopOptions{}, func(l *Loop) {
		var c counter
		id := l.Add(&c)
		if n := testing.AllocsPerRun(500, func() {
			e := l.Get()
			e.PrepNop()
			e.UserData = id
			l.Inline(false)
			if _, err := l.Once(math.MaxInt64); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations per batch", n)
		}
	})
}

// What surely completes inside the enter call ends no wait: one call submits it and waits for the rest.
func TestInlineSure(t *testing.T) {
	onLoop(t, LoopOptions{}, func(l *Loop) {
		var p [2]int
		if err := unix.Pipe(p[:]); err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		if _, err := l.Once(0); err != nil { // the loop's own entries
			t.Error(err)
		}
		mem := mmap(t, 4096)
		var nop, read counter
		e := l.Get()
		e.PrepRead(int32(p[0]), mem[:1], 0)
		e.UserData = l.Add(&read)
		e = l.Get()
		e.PrepNop()
		e.UserData = l.Add(&nop)
		l.Inline(true)
		before := l.Ring().Enters
		time.AfterFunc(20*time.Millisecond, func() { unix.Write(p[1], []byte{1}) })
		if _, err := l.Once(l.Now() + 20e9); err != nil {
			t.Error(err)
		}
		if l.Ring().Enters != before+1 || nop.n != 1 || read.n != 1 {
			t.Errorf("%d calls, %d inline, %d others", l.Ring().Enters-before, nop.n, read.n)
		}
	})
}

// UseFixed finds registered memory, also a part of it, and nothing after it was unregistered.
func TestUseFixed(t *testing.T) {
	runtime.LockOSThread()
	l, err := NewLoop(LoopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := mmap(t, 8192), mmap(t, 4096)
	for range 40 { // more often than there are slots
		for _, m := range [][]byte{a, b} {
			if _, err := l.RegisterBuffer(m); err != nil {
				t.Fatal(err)
			}
		}
		e := new(SQE)
		e.PrepWrite(3, b[512:1024], 0)
		if l.UseFixed(e); e.Opcode != OpWriteFixed || e.BufIndex != 1 {
			t.Fatalf("%+v", e)
		}
		e = new(SQE)
		e.PrepRead(3, a, 0)
		if l.UseFixed(e); e.Opcode != OpReadFixed || e.BufIndex != 0 {
			t.Fatalf("%+v", e)
		}
		if err := errors.Join(l.UnregisterBuffer(a), l.UnregisterBuffer(b)); err != nil {
			t.Fatal(err)
		}
		e.PrepRead(3, a, 0)
		if l.UseFixed(e); e.Opcode != OpRead {
			t.Fatalf("%+v", e)
		}
	}
}

// The ids of sources that are given back are used again: a loop may have any number, one after the other.
func TestSourcesAreUsedAgain(t *testing.T) {
	onLoop(t, LoopOptions{}, func(l *Loop) {
		kept := l.Add(&counter{})
		for range 2 * maxSources {
			a, b := l.Add(&counter{}), l.Add(&counter{})
			if a == b || a == kept || b == kept {
				t.Errorf("ids %#x and %#x beside %#x", a, b, kept)
				return
			}
			l.Release(a)
			l.Release(b)
		}
	})
}
