package blktest

import (
	"syscall"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Faults says what goes wrong on a disk. Its zero value is a disk that works.
type Faults struct {
	Dead bool // every operation fails with EIO

	rules []*rule
	bad   []span
	rot   []span
	hung  []func()
	Hits  int // faults that fired
}

type span struct {
	off, n int64
}

type rule struct {
	op     blk.Op
	any    bool
	nth    int // counts down; fires at 0
	err    syscall.Errno
	sticky bool
	hang   bool
	delay  int64
}

type action struct {
	err   syscall.Errno
	hang  bool
	delay int64
}

// FailNth makes the nth operation op from now (1 is the next) fail, once or, sticky, for ever.
func (f *Faults) FailNth(op blk.Op, nth int, err syscall.Errno, sticky bool) {
	f.rules = append(f.rules, &rule{op: op, nth: nth, err: err, sticky: sticky})
}

// FailNthOfAny is FailNth over all operations.
func (f *Faults) FailNthOfAny(nth int, err syscall.Errno, sticky bool) {
	f.rules = append(f.rules, &rule{any: true, nth: nth, err: err, sticky: sticky})
}

// HangNth makes the nth operation op from now never complete, until Release.
func (f *Faults) HangNth(op blk.Op, nth int) {
	f.rules = append(f.rules, &rule{op: op, nth: nth, hang: true})
}

// SlowNth delays the nth operation op from now by ns.
func (f *Faults) SlowNth(op blk.Op, nth int, ns int64) {
	f.rules = append(f.rules, &rule{op: op, nth: nth, delay: ns})
}

// BadRange makes reads that touch [off, off+n) fail with EIO until the range is written.
func (f *Faults) BadRange(off, n int64) { f.bad = append(f.bad, span{off, n}) }

// RotRange makes reads of [off, off+n) return flipped bits, silently, until it is written.
func (f *Faults) RotRange(off, n int64) { f.rot = append(f.rot, span{off, n}) }

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

// Heal ends all faults but what is rotten or bad on the media.
func (f *Faults) Heal() { f.Dead, f.rules = false, nil }

// media is what survives a power cut.
func (f *Faults) media() Faults { return Faults{bad: f.bad, rot: f.rot} }

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
		a = action{u.err, u.hang, u.delay}
		if !u.sticky {
			u.nth = -1
		}
	}
	switch r.Op {
	case blk.Read:
		for _, b := range f.bad {
			if b.touches(r) {
				f.Hits++
				a.err = syscall.EIO
			}
		}
	case blk.Write:
		f.bad, f.rot = heal(f.bad, r), heal(f.rot, r)
	}
	return a
}

func (s span) touches(r *blk.Request) bool { return s.off < r.Offset+r.Length && r.Offset < s.off+s.n }

// heal drops the ranges that a write covers whole.
func heal(s []span, r *blk.Request) []span {
	var out []span
	for _, x := range s {
		if x.off < r.Offset || x.off+x.n > r.Offset+r.Length {
			out = append(out, x)
		}
	}
	return out
}

func (f *Faults) damage(r *blk.Request) {
	for _, s := range f.rot {
		for at := max(s.off, r.Offset); at < min(s.off+s.n, r.Offset+r.Length); at++ {
			r.Buf[at-r.Offset] ^= 0x55
		}
		if s.touches(r) {
			f.Hits++
		}
	}
}
