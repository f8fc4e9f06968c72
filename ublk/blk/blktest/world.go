package blktest

import (
	"container/heap"
	"errors"
	"math/rand/v2"

	"github.com/robib-ublk/robib/ublk/blk"
)

// World owns virtual time and the order of all events. One seed, one history.
type World struct {
	Now   int64 // ns, monotonic
	Skew  int64 // ns that wall time is ahead; it may jump
	Rand  *rand.Rand
	Trace uint64 // FNV-1a over every event: equal traces, equal histories
	Steps int
	Batch int // most events of a step; 0: four

	queue events
	seq   int64
}

type event struct {
	at  int64
	tie uint64
	run func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].tie < e[j].tie
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	o := *e
	x := o[len(o)-1]
	o[len(o)-1] = event{}
	*e = o[:len(o)-1]
	return x
}

// ErrQuiet says that nothing will ever happen again: whoever waits, waits for ever.
var ErrQuiet = errors.New("blktest: the world is quiet")

// NewWorld makes the world of a seed, a minute after boot.
func NewWorld(seed uint64) *World {
	return &World{Now: 60e9, Skew: 1.7e18, Rand: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), Trace: 14695981039346656037}
}

// After schedules run; at equal times the seed decides the order.
func (w *World) After(delay int64, run func()) {
	w.seq++
	heap.Push(&w.queue, event{w.Now + max(delay, 0), uint64(w.Rand.Uint32())<<32 | uint64(w.seq&0xffffffff), run})
}

// Mark mixes v into the trace.
func (w *World) Mark(v ...uint64) {
	for _, x := range v {
		w.Trace = (w.Trace ^ x) * 1099511628211
	}
}

// Jump moves wall time by ns, as an administrator or a time server does; monotonic time stays.
func (w *World) Jump(ns int64) {
	w.Skew += ns
	w.Mark(uint64(ns))
}

// Time is now, as a batch sees it.
func (w *World) Time() blk.Instant { return blk.Instant{Mono: w.Now, Wall: w.Now + w.Skew} }

// Step runs a few events, as a ring reaps several at once; false: none are left.
func (w *World) Step() bool {
	if len(w.queue) == 0 {
		return false
	}
	w.Steps++
	most := w.Batch
	if most == 0 {
		most = 4
	}
	for n := 1 + w.Rand.IntN(most); n > 0 && len(w.queue) > 0; n-- {
		e := heap.Pop(&w.queue).(event)
		w.Now = max(w.Now, e.at)
		w.Mark(uint64(e.at), e.tie)
		e.run()
	}
	return true
}

// Next is when the next event is due, or blk.Never.
func (w *World) Next() int64 {
	if len(w.queue) == 0 {
		return blk.Never
	}
	return w.queue[0].at
}

// AdvanceTo moves time to at, where a kick asked to be woken before any event.
func (w *World) AdvanceTo(at int64) { w.Now = max(w.Now, at) }

// Drive advances the world by a step.
func (w *World) Drive() (blk.Instant, error) {
	if !w.Step() {
		return w.Time(), ErrQuiet
	}
	return w.Time(), nil
}

// Turn advances the world to the next event or to wake, whichever is first. It reports false
// when there is neither.
func (w *World) Turn(wake int64) bool {
	if wake == blk.Never && len(w.queue) == 0 {
		return false
	}
	if wake < w.Next() {
		w.AdvanceTo(wake)
		return true
	}
	return w.Step()
}
