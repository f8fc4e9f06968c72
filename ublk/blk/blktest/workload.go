package blktest

import (
	"github.com/robib-ublk/robib/ublk/blk"
)

// Workload is a seeded client: it keeps requests in flight on a device and checks every read
// and every completion against an oracle.
type Workload struct {
	W      *World
	Dev    blk.Device
	Oracle *Oracle
	Fail   func(format string, args ...any)

	MaxBytes  int64 // longest request
	Align     int64 // 512, or the device's block
	Reads     int   // in 100
	Flushes   int   // in 100
	Region    int64 // 0: the whole device
	ErrorsOK  bool  // errors are expected: a failed write may or may not have happened
	Left      int   // requests still to submit
	Acked     int
	Errors    int
	WriteDone func(value uint64, off, n int64) // told of each acknowledged write, if set

	slots []*slot
	idle  []*slot
	back  []*slot
}

type slot struct {
	w      *Workload
	r      blk.Request
	mem    []byte
	value  uint64
	before [][]uint64
	busy   bool
}

// NewWorkload makes a client of depth requests.
func NewWorkload(w *World, dev blk.Device, o *Oracle, depth int, fail func(string, ...any)) *Workload {
	l := &Workload{W: w, Dev: dev, Oracle: o, Fail: fail, MaxBytes: 32 << 10, Align: 512, Reads: 30, Flushes: 5}
	for range depth {
		s := &slot{w: l, mem: make([]byte, 256<<10)}
		s.r.Owner = s
		l.slots = append(l.slots, s)
		l.idle = append(l.idle, s)
	}
	return l
}

// Complete records a request that came back; Pump judges it.
func (s *slot) Complete(*blk.Request) { s.w.back = append(s.w.back, s) }

// InFlight counts requests that have not come back.
func (l *Workload) InFlight() int { return len(l.slots) - len(l.idle) - len(l.back) }

// Done reports whether everything was submitted and judged.
func (l *Workload) Done() bool { return l.Left == 0 && len(l.idle) == len(l.slots) }

// Pump judges what came back and submits more. Between batches only.
func (l *Workload) Pump() {
	for _, s := range l.back {
		l.judge(s)
		s.busy = false
		l.idle = append(l.idle, s)
	}
	l.back = l.back[:0]
	for len(l.idle) > 0 && l.Left > 0 {
		if !l.submit() {
			return
		}
	}
}

func (l *Workload) judge(s *slot) {
	r := &s.r
	if r.Err != 0 {
		l.Errors++
		if !l.ErrorsOK {
			l.Fail("%v of [%d, +%d) failed: %v", r.Op, r.Offset, r.Length, r.Err)
		}
		return
	}
	l.Acked++
	switch r.Op {
	case blk.Read:
		if err := l.Oracle.CheckRead(r.Buf, r.Offset, s.before); err != nil {
			l.Fail("read of [%d, +%d): %v", r.Offset, r.Length, err)
		}
	case blk.Write:
		l.Oracle.Ack(s.value, r.Offset, r.Length)
		if l.WriteDone != nil {
			l.WriteDone(s.value, r.Offset, r.Length)
		}
	}
}

func (l *Workload) submit() bool {
	size := l.Dev.Info().SizeBytes
	if l.Region > 0 {
		size = min(size, l.Region)
	}
	n := (1 + l.W.Rand.Int64N(max(l.MaxBytes/l.Align, 1))) * l.Align
	if l.W.Rand.IntN(2) == 0 {
		n = (1 + l.W.Rand.Int64N(min(8, l.MaxBytes/l.Align))) * l.Align
	}
	n = min(n, size)
	off := l.W.Rand.Int64N((size-n)/l.Align+1) * l.Align
	p := l.W.Rand.IntN(100)
	for _, o := range l.slots {
		// Overlapping writes in flight are unordered: no oracle could judge them.
		if o.busy && o.r.Op == blk.Write && p >= l.Reads && o.r.Offset < off+n && off < o.r.Offset+o.r.Length {
			return false
		}
	}
	s := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	l.Left--
	s.busy = true
	r := &s.r
	r.Flags, r.Offset, r.Length, r.Buf = 0, off, n, s.mem[:n]
	switch {
	case p < l.Reads:
		r.Op = blk.Read
		s.before = l.Oracle.Snapshot(off, n)
	case p < l.Reads+l.Flushes:
		r.Op, r.Offset, r.Length, r.Buf = blk.Flush, 0, 0, nil
	default:
		r.Op = blk.Write
		if l.W.Rand.IntN(4) == 0 {
			r.Flags = blk.FUA
		}
		s.value = l.Oracle.Begin(r.Buf, off)
	}
	l.Dev.Submit(r)
	return true
}

// ReadAll reads the whole of dev through drive in steps, for checks after a crash.
func ReadAll(dev blk.Device, drive blk.Drive) ([]byte, error) {
	size := dev.Info().SizeBytes
	out := make([]byte, size)
	const step = 128 << 10
	for off := int64(0); off < size; off += step {
		n := min(step, size-off)
		if err := blk.Do(dev, &blk.Request{Op: blk.Read, Offset: off, Length: n, Buf: out[off : off+n]}, drive); err != nil {
			return nil, err
		}
	}
	return out, nil
}
