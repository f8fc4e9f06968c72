package uring

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tickNanos is how often a busy loop passes the Go scheduler: a locked thread that does not
	// do so for 10 ms loses its P at every sysmon tick, and each loss costs a wake-up per request.
	tickNanos = 5_000_000
	// idleWaitNanos bounds a wait when nothing has a deadline.
	idleWaitNanos = 1_000_000_000
	sourceShift   = 48
	maxSources    = 1 << 15
)

// Source turns the completions that carry its id into records. Handle is called once per
// completion, inside a batch: it records, and acts later, in the kick.
type Source interface{ Handle(c CQE, now int64) }

// Late has entries to queue behind all others of a batch. Queue calls Later for nobody.
type Late interface{ Queue() }

// LoopOptions are those of the loop's ring.
type LoopOptions struct{ Options }

// Loop owns one ring and one thread, and runs a stack of devices: reap, handle, kick, enter.
// Unless said otherwise its methods are for the loop's own thread.
type Loop struct {
	ring    *Ring
	sources []Source
	late    []Late
	free    []uint64 // ids that were given back
	inline  bool     // this batch holds what may complete inside the enter call
	sure    uint32   // and so much that surely does
	stop    atomic.Bool
	running bool

	base   time.Time
	offset int64 // CLOCK_MONOTONIC at base

	wake    waker
	ticker  ticker
	fatal   error
	Dropped uint64 // completions of removed sources
}

// NewLoop makes a loop for the calling goroutine, whose thread it locks for good.
func NewLoop(o LoopOptions) (*Loop, error) {
	runtime.LockOSThread()
	r, err := New(o.Options)
	if err != nil {
		return nil, err
	}
	l := &Loop{ring: r, late: make([]Late, 0, 64)}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	// time.Since reads the vDSO; clock_gettime of x/sys is a system call.
	l.base, l.offset = time.Now(), ts.Nano()
	if err := l.wake.open(l); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := l.ticker.open(l); err != nil {
		return nil, errors.Join(err, l.wake.close(), r.Close())
	}
	return l, nil
}

// Now is CLOCK_MONOTONIC in ns. Any goroutine.
func (l *Loop) Now() int64 { return l.offset + int64(time.Since(l.base)) }

// Add registers a source; its id goes into bits 48 to 63 of UserData, the rest is its own.
func (l *Loop) Add(s Source) (id uint64) {
	if n := len(l.free); n > 0 {
		id, l.free = l.free[n-1], l.free[:n-1]
		l.sources[id>>sourceShift] = s
		return id
	}
	if len(l.sources) == maxSources {
		panic("uring: too many sources")
	}
	l.sources = append(l.sources, s)
	return uint64(len(l.sources)-1) << sourceShift
}

// Remove drops a source; completions that still come for it are counted and ignored.
func (l *Loop) Remove(id uint64) {
	l.sources[id>>sourceShift] = nil
}

// Release drops a source of which nothing is in flight; its id is used again.
func (l *Loop) Release(id uint64) {
	l.Remove(id)
	l.free = append(l.free, id)
}

// Get gives a zeroed entry, never nil: a full queue is submitted first, without waiting. It
// stays valid until the next Get. A queue that the kernel will not take, because completions
// wait to be reaped, is waited for.
func (l *Loop) Get() *SQE {
	if e := l.ring.Get(); e != nil {
		return e
	}
	for {
		if err := l.ring.Submit(); err != nil {
			// Nothing can be submitted any more: Run ends with this.
			l.fatal = err
			panic(fmt.Sprintf("uring: submit: %v", err))
		}
		if e := l.ring.Get(); e != nil {
			return e
		}
	}
}

// Ring is the loop's ring, for its command areas and registrations.
func (l *Loop) Ring() *Ring { return l.ring }

// RegisterFile puts fd into a fixed-file slot; see Ring.RegisterFile.
func (l *Loop) RegisterFile(fd int) (int32, error) { return l.ring.RegisterFile(fd) }

// UnregisterFile empties a slot.
func (l *Loop) UnregisterFile(slot int32) error { return l.ring.UnregisterFile(slot) }

// RegisterBuffer makes mem usable by fixed reads and writes.
func (l *Loop) RegisterBuffer(mem []byte) (uint16, error) { return l.ring.RegisterBuffer(mem) }

// UnregisterBuffer takes memory back that RegisterBuffer was given; it must happen before that is
// unmapped, and may be called for memory that is not registered. What is in flight keeps it pinned.
func (l *Loop) UnregisterBuffer(mem []byte) error { return l.ring.UnregisterBuffer(mem) }

// UseFixed turns a read or write that PrepRead or PrepWrite filled in into a fixed one, where its
// memory lies in a registered buffer: the kernel then need not look its pages up.
func (l *Loop) UseFixed(e *SQE) {
	if e.Opcode != OpRead && e.Opcode != OpWrite {
		return
	}
	for i := range l.ring.regions {
		g := &l.ring.regions[i]
		if e.Addr >= g.from && e.Addr+uint64(e.Len) <= g.to {
			e.BufIndex = uint16(i)
			if e.Opcode == OpRead {
				e.Opcode = OpReadFixed
			} else {
				e.Opcode = OpWriteFixed
			}
			return
		}
	}
}

// Inline says that this batch holds an entry that completes inside the enter call (a SEND): its end
// is nothing to wait for. The next enter waits for one completion more, where that is sure;
// otherwise it first submits without waiting.
func (l *Loop) Inline(sure bool) {
	if sure {
		l.sure++
	} else {
		l.inline = true
	}
}

// Later has q queue its entries once, right before the next enter: what others queue meanwhile goes first.
func (l *Loop) Later(q Late) { l.late = append(l.late, q) }

// Wake makes the loop run a batch. Any goroutine.
func (l *Loop) Wake() { l.wake.wake() }

// Post runs f on the loop between two batches; order is kept. Any goroutine. It reports whether
// the loop still runs: after false, f never runs.
func (l *Loop) Post(f func()) bool { return l.wake.post(f) }

// Stop makes Run return after the batch under way. Any goroutine.
func (l *Loop) Stop() {
	l.stop.Store(true)
	l.wake.wake()
}

// Once enters, waits until something completes or wake (Mono ns) has come, and handles what
// completed. It serves code that drives devices before Run does.
func (l *Loop) Once(wake int64) (now int64, err error) {
	l.wake.arm()
	if err := l.wait(wake, l.Now()); err != nil {
		return l.Now(), err
	}
	now = l.Now()
	l.reap(now)
	return now, nil
}

// Run reaps, kicks and enters until Stop: one waiting system call per batch. kick is called
// once per batch and says when it wants to be called again although nothing completes.
func (l *Loop) Run(kick func(now int64) (wake int64)) error {
	if l.running {
		return errors.New("uring: the loop runs already")
	}
	l.running = true
	defer func() { l.running = false }()
	defer l.wake.end()
	now := l.Now()
	for !l.stop.Load() {
		l.wake.run()
		wake := kick(now)
		l.wake.arm()
		l.ticker.arm(now)
		if err := l.wait(wake, now); err != nil {
			return err
		}
		now = l.Now()
		if l.reap(now) {
			l.ticker.busy = now
		}
		if l.ticker.fired {
			l.ticker.fired = false
			runtime.Gosched()
		}
	}
	return nil
}

// wait enters at most twice: without waiting where something may complete inline, then waiting
// for one completion beside those that surely come inline, or not at all where there is nothing to submit and something to reap.
func (l *Loop) wait(wake, now int64) error {
	for _, q := range l.late {
		q.Queue()
	}
	clear(l.late)
	l.late = l.late[:0]
	n := 1 + l.sure
	l.sure = 0
	if l.inline {
		n = 1
		l.inline = false
		if err := l.ring.Submit(); err != nil {
			return err
		}
	}
	if l.ring.Ready() > 0 {
		if l.ring.Unsubmitted() == 0 {
			return nil
		}
		return l.ring.Submit()
	}
	if wake <= now {
		return l.ring.Submit()
	}
	timeout := int64(math.MaxInt64)
	switch {
	case wake == math.MaxInt64 && l.ticker.armed:
		// The tick bounds the wait.
	case wake == math.MaxInt64:
		timeout = idleWaitNanos
	case l.ticker.armed && wake-now > 4*tickNanos:
		// The tick comes first, and the batch it makes asks again.
	default:
		timeout = min(wake-now, idleWaitNanos)
	}
	return l.ring.SubmitAndWait(n, timeout)
}

// reap handles everything that has completed; it reports whether a device had a part in it.
func (l *Loop) reap(now int64) (work bool) {
	r := l.ring
	for {
		h, t := *r.cqHead, atomic.LoadUint32(r.cqTail)
		if h == t {
			break
		}
		for ; h != t; h++ {
			c := r.cqes[h&r.cqMask]
			i := c.UserData >> sourceShift
			if i >= uint64(len(l.sources)) || l.sources[i] == nil {
				l.Dropped++
				continue
			}
			if i > 1 {
				work = true
			}
			l.sources[i].Handle(c, now)
		}
		atomic.StoreUint32(r.cqHead, h)
		if !r.overflown() {
			break
		}
		// Completions that did not fit wait in the kernel: fetch them.
		if r.Submit() != nil {
			break
		}
	}
	return work
}

// Close gives ring and thread resources back; nothing may be in flight that points to memory
// that is about to go. Sources are dropped.
func (l *Loop) Close() error {
	l.wake.end()
	return errors.Join(l.ring.Close(), l.wake.close(), l.ticker.close())
}

// waker is source 0: an eventfd that other goroutines write, and the functions they post.
type waker struct {
	l     *Loop
	id    uint64
	fd    int
	mem   []byte
	armed bool

	mu     sync.Mutex
	closed bool
	posted []func()
	spare  []func()
	some   atomic.Bool
}

func (w *waker) open(l *Loop) (err error) {
	w.l = l
	if w.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if w.mem, _, err = timespecs(1); err != nil {
		return errors.Join(err, unix.Close(w.fd))
	}
	w.id = l.Add(w)
	return nil
}

func (w *waker) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	err := errors.Join(unix.Close(w.fd), unix.Munmap(w.mem))
	w.fd = -1
	return err
}

// Handle records that the eventfd's read is over.
func (w *waker) Handle(CQE, int64) { w.armed = false }

func (w *waker) arm() {
	if w.armed {
		return
	}
	e := w.l.Get()
	e.PrepRead(int32(w.fd), w.mem[:8], 0)
	e.UserData = w.id
	w.armed = true
}

func (w *waker) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	one := [8]byte{1}
	// EAGAIN would mean 2^64-1 wake-ups are pending already: any other error cannot happen on an eventfd.
	unix.Write(w.fd, one[:])
}

func (w *waker) post(f func()) bool {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return false
	}
	w.posted = append(w.posted, f)
	w.some.Store(true)
	w.mu.Unlock()
	w.wake()
	return true
}

// run calls what was posted, in order.
func (w *waker) run() {
	if !w.some.Load() {
		return
	}
	w.mu.Lock()
	fs := w.posted
	w.posted, w.spare = w.spare[:0], nil
	w.some.Store(false)
	w.mu.Unlock()
	for i, f := range fs {
		f()
		fs[i] = nil
	}
	w.mu.Lock()
	w.spare = fs[:0]
	w.mu.Unlock()
}

// end refuses further posts and runs those that were accepted.
func (w *waker) end() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.run()
}

// ticker is source 1: a multishot timeout while the loop is busy, so that no wait needs a
// bound of its own. It lapses when nothing has happened for a while.
type ticker struct {
	l     *Loop
	id    uint64
	mem   []byte
	ts    []Timespec
	armed bool
	fired bool
	busy  int64 // when a device last completed something
	ended bool  // asked to end
	off   bool  // the kernel has no multishot timeout
}

// idleTicks is after how many idle ticks the ticker is taken away.
const idleTicks = 20

func (t *ticker) open(l *Loop) (err error) {
	t.l = l
	if t.mem, t.ts, err = timespecs(1); err != nil {
		return err
	}
	t.ts[0] = Timespec{Nsec: tickNanos}
	t.id = l.Add(t)
	return nil
}

func (t *ticker) close() error { return unix.Munmap(t.mem) }

// Handle records a tick, or the end of the timeout.
func (t *ticker) Handle(c CQE, _ int64) {
	if c.UserData&(1<<sourceShift-1) != 0 {
		return // the answer to a removal
	}
	t.fired = true
	if c.Flags&CQEMore == 0 {
		t.armed, t.ended = false, false
		t.off = c.Res == -int32(unix.EINVAL) // before Linux 6.4: waits get bounds of their own
	}
}

func (t *ticker) arm(now int64) {
	switch {
	case !t.armed && !t.off && now-t.busy < tickNanos:
		e := t.l.Get()
		e.PrepTimeout(&t.ts[0], 0, TimeoutMultishot)
		e.UserData = t.id
		t.armed = true
	case t.armed && !t.ended && now-t.busy > idleTicks*tickNanos:
		e := t.l.Get()
		e.PrepTimeoutRemove(t.id, 0)
		e.UserData = t.id | 1
		t.ended = true
	}
}
