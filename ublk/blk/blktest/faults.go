package blktest

import (
	"syscall"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Faults says what goes wrong on a disk. Its zero value is a disk that works.
type Faults struct {
	Dead bool // every operation fails with EIO, those in flight too
	Hits int  // faults that fired

	rules []*rule
	bad   []span
	hung  []func()
	stuck int64 // Mono time before which nothing completes
}

type span struct{ off, n int64 }

// rule makes the nth operation of a kind special.
type rule struct {
	op     blk.Op
	any    bool
	nth    int // counts down; fires at 0; negative: used up
	sticky bool
	action
}

// action is what happens to one operation.
type action struct {
	err       syscall.Errno
	hang      bool
	delay     int64 // ns
	lose      bool
	misdirect bool
	to        int64
}

// FailNth makes the nth operation op from now (1 is the next) fail, once or, sticky, for ever.
// A write that fails may have landed in part; a flush that fails loses part of the cache.
func (f *Faults) FailNth(op blk.Op, nth int, err syscall.Errno, sticky bool) {
	f.rules = append(f.rules, &rule{op: op, nth: nth, sticky: sticky, action: action{err: err}})
}

// FailNthOfAny is FailNth over all operations.
func (f *Faults) FailNthOfAny(nth int, err syscall.Errno, sticky bool) {
	f.rules = append(f.rules, &rule{any: true, nth: nth, sticky: sticky, action: action{err: err}})
}

// HangNth makes the nth operation op from now never complete, until Release.
func (f *Faults) HangNth(op blk.Op, nth int) {
	f.rules = append(f.rules, &rule{op: op, nth: nth, action: action{hang: true}})
}

// SlowNth delays the nth operation op from now by ns.
func (f *Faults) SlowNth(op blk.Op, nth int, ns int64) {
	f.rules = append(f.rules, &rule{op: op, nth: nth, action: action{delay: ns}})
}

// LoseNth makes the disk say that the nth write from now is done, and drop it.
func (f *Faults) LoseNth(nth int) {
	f.rules = append(f.rules, &rule{op: blk.Write, nth: nth, action: action{lose: true}})
}

// MisdirectNth makes the nth write from now land at offset to, where it must fit.
func (f *Faults) MisdirectNth(nth int, to int64) {
	f.rules = append(f.rules, &rule{op: blk.Write, nth: nth, action: action{misdirect: true, to: to}})
}

// StuckUntil holds every completion, also of what is in flight, until Mono time at.
func (f *Faults) StuckUntil(at int64) { f.stuck = at }

// BadRange makes reads that touch [off, off+n) fail with EIO, each sector until it is written.
func (f *Faults) BadRange(off, n int64) {
	from, to := off&^511, (off+n+511)&^511
	f.bad = append(f.bad, span{from, to - from})
}

// Release completes what hangs.
func (f *Faults) Release() {
	hung := f.hung
	f.hung = nil
	for _, h := range hung {
		h()
	}
}

// Hung counts operations that hang.
func (f *Faults) Hung() int { return len(f.hung) }

// Heal ends all faults but what is bad or rotten on the media, and what hangs already.
func (f *Faults) Heal() { f.Dead, f.rules, f.stuck = false, nil, 0 }

func (f *Faults) judge(r *blk.Request) (a action) {
	for _, u := range f.rules {
		if !u.any && u.op != r.Op || u.nth < 0 {
			continue
		}
		if u.nth > 0 {
			u.nth--
		}
		if u.nth > 0 {
			continue
		}
		f.Hits++
		a = u.action
		if !u.sticky {
			u.nth = -1
		}
	}
	if r.Op == blk.Read {
		for _, b := range f.bad {
			if b.off < r.Offset+r.Length && r.Offset < b.off+b.n {
				f.Hits++
				a.err = syscall.EIO
				break
			}
		}
	}
	return a
}

// heal makes the sectors that w wrote readable again.
func (f *Faults) heal(w *write) {
	for i := range w.void {
		if len(f.bad) == 0 {
			return
		}
		if !w.void[i] {
			f.bad = cut(f.bad, w.off+int64(i)*512)
		}
	}
}

// cut takes the sector at off out of s.
func cut(s []span, off int64) []span {
	for i, b := range s {
		if off < b.off || off >= b.off+b.n {
			continue
		}
		out := append([]span(nil), s[:i]...)
		if off > b.off {
			out = append(out, span{b.off, off - b.off})
		}
		if end := b.off + b.n; off+512 < end {
			out = append(out, span{off + 512, end - off - 512})
		}
		return cut(append(out, s[i+1:]...), off)
	}
	return s
}
