package blktest

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Workload is a seeded client: it keeps requests in flight on a device and checks every read
// and every completion against an oracle.
type Workload struct {
	W      *World // only its Rand is used
	Dev    blk.Device
	Oracle *Oracle
	Fail   func(format string, args ...any)

	MaxBytes  int64 // longest request
	Align     int64 // 512, or the device's block
	Reads     int   // in 100
	Flushes   int   // in 100
	Discards  int   // in 100, where offered
	Zeroes    int   // in 100, where offered
	Runs      int   // in 100: a write goes on where the last one ended
	MaxZero   int64 // longest discard or write-zeroes; 0: MaxBytes
	Region    int64 // 0: the whole device
	Overlap   bool  // writes in flight may overlap
	ErrorsOK  bool  // errors are expected: a failed write may or may not have happened
	Left      int   // requests still to submit
	Acked     int
	Errors    int
	WriteDone func(value uint64, off, n int64) // told of each acknowledged write, if set

	last  int64 // where the last write ended
	slots []*slot
	idle  []*slot
	back  []*slot
}

type slot struct {
	w      *Workload
	r      blk.Request
	mem    []byte
	value  uint64 // of a write; of a flush, when it began
	before Before
	state  slotState
}

type slotState uint8

const (
	idle slotState = iota
	submitted
	back
)

// NewWorkload makes a client of depth requests.
func NewWorkload(w *World, dev blk.Device, o *Oracle, depth int, fail func(string, ...any)) *Workload {
	l := &Workload{W: w, Dev: dev, Oracle: o, Fail: fail, MaxBytes: 128 << 10, Align: 512, Reads: 30, Flushes: 5}
	for i := range depth {
		s := &slot{w: l}
		s.r.Owner, s.r.Tag = s, uint32(i)
		l.slots = append(l.slots, s)
		l.idle = append(l.idle, s)
	}
	return l
}

// Complete records a request that came back; Pump judges it.
func (s *slot) Complete(r *blk.Request) {
	if s.state != submitted || r != &s.r {
		s.w.Fail("%v of [%d, +%d) completed twice, or as another", s.r.Op, s.r.Offset, s.r.Length)
		return
	}
	s.state = back
	s.w.back = append(s.w.back, s)
}

// InFlight counts requests that have not come back.
func (l *Workload) InFlight() int { return len(l.slots) - len(l.idle) - len(l.back) }

// Done reports whether everything was submitted and judged.
func (l *Workload) Done() bool { return l.Left == 0 && len(l.idle) == len(l.slots) }

// Pump judges what came back and submits more. Between batches only.
func (l *Workload) Pump() {
	for _, s := range l.back {
		l.judge(s)
		s.state = idle
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
		if r.Op != blk.Read && r.Op != blk.Flush {
			l.Oracle.Fail(s.value, r.Offset, r.Length)
		}
		return
	}
	l.Acked++
	switch r.Op {
	case blk.Read:
		if err := l.Oracle.CheckRead(r.Buf, r.Offset, s.before); err != nil {
			l.Fail("read of [%d, +%d): %v", r.Offset, r.Length, err)
		}
	case blk.Flush:
		l.Oracle.FlushAcked(s.value)
	default:
		if r.Flags&blk.FUA != 0 {
			l.Oracle.AckFUA(s.value, r.Offset, r.Length)
		} else {
			l.Oracle.Ack(s.value, r.Offset, r.Length)
		}
		if l.WriteDone != nil && r.Op == blk.Write {
			l.WriteDone(s.value, r.Offset, r.Length)
		}
	}
}

// pick draws an operation.
func (l *Workload) pick(info *blk.Info) blk.Op {
	p := l.W.Rand.IntN(100)
	for _, c := range [...]struct {
		share   int
		op      blk.Op
		offered bool
	}{{l.Reads, blk.Read, true}, {l.Flushes, blk.Flush, true}, {l.Discards, blk.Discard, info.Discard}, {l.Zeroes, blk.WriteZeroes, info.WriteZeroes}} {
		if p >= 0 && p < c.share && c.offered {
			return c.op
		}
		p -= c.share
	}
	return blk.Write
}

// place draws a range: half of them short, and a quarter of whole 4-KiB blocks.
func (l *Workload) place(size, longest int64) (off, n int64) {
	n = (1 + l.W.Rand.Int64N(max(longest/l.Align, 1))) * l.Align
	if l.W.Rand.IntN(2) == 0 {
		n = (1 + l.W.Rand.Int64N(min(8, max(longest/l.Align, 1)))) * l.Align
	}
	n = min(n, size/l.Align*l.Align)
	off = l.W.Rand.Int64N((size-n)/l.Align+1) * l.Align
	if l.W.Rand.IntN(4) == 0 && l.Align <= 4096 && longest >= 4096 && size >= 4096 {
		off, n = off&^4095, max(n&^4095, 4096)
		off = min(off, (size-n)&^4095)
	}
	return off, n
}

// submit draws a request and submits it; false: it has to wait for one in flight.
func (l *Workload) submit() bool {
	info := l.Dev.Info()
	size := info.SizeBytes
	if l.Region > 0 {
		size = min(size, l.Region)
	}
	off, n := l.place(size, l.MaxBytes)
	op := l.pick(&info)
	if l.MaxZero > 0 && (op == blk.Discard || op == blk.WriteZeroes) {
		off, n = l.place(size, l.MaxZero)
	}
	if op == blk.Write && l.Runs > 0 && l.W.Rand.IntN(100) < l.Runs {
		if off = l.last; off+n > size {
			off = 0
		}
	}
	if op != blk.Read && op != blk.Flush && !l.Overlap {
		for _, o := range l.slots {
			// Which of two overlapping writes wins, nobody can say: asked for only.
			if o.state == submitted && o.r.Op != blk.Read && o.r.Op != blk.Flush && o.r.Offset < off+n && off < o.r.Offset+o.r.Length {
				return false
			}
		}
	}
	s := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	l.Left--
	s.state = submitted
	r := &s.r
	r.Op, r.Flags, r.Offset, r.Length, r.Buf = op, 0, off, n, nil
	switch op {
	case blk.Read:
		r.Buf = s.buffer(n)
		s.before = l.Oracle.Snapshot(off, n)
	case blk.Flush:
		r.Offset, r.Length = 0, 0
		s.value = l.Oracle.BeginFlush()
	case blk.Write:
		if l.W.Rand.IntN(4) == 0 {
			r.Flags = blk.FUA
		}
		r.Buf = s.buffer(n)
		s.value = l.Oracle.Begin(r.Buf, off)
		l.last = off + n
	default:
		s.value = l.Oracle.BeginZeroes(off, n)
	}
	l.Dev.Submit(r)
	return true
}

// buffer gives n bytes on a page boundary: Go puts everything above 32 KiB on one.
func (s *slot) buffer(n int64) []byte {
	if int64(len(s.mem)) < n {
		s.mem = make([]byte, max(n, s.w.MaxBytes, 33<<10))
	}
	return s.mem[:n]
}

// Run pumps until everything is back: kick, then drive, as a loop would.
func (l *Workload) Run(drive blk.Drive) error {
	now := blk.Instant{}
	for l.Pump(); !l.Done(); l.Pump() {
		l.Dev.Kick(now)
		if len(l.back) > 0 {
			continue
		}
		var err error
		if now, err = drive(); err != nil {
			return fmt.Errorf("%d requests in flight: %w", l.InFlight(), err)
		}
	}
	return nil
}

// ReadAll reads the whole of dev through drive in steps, for checks after a crash.
func ReadAll(dev blk.Device, drive blk.Drive) ([]byte, error) {
	size := dev.Info().SizeBytes
	out := make([]byte, max(size, 33<<10))[:size]
	const step = 128 << 10
	for off := int64(0); off < size; off += step {
		n := min(step, size-off)
		if err := blk.Do(dev, &blk.Request{Op: blk.Read, Offset: off, Length: n, Buf: out[off : off+n]}, drive); err != nil {
			return nil, err
		}
	}
	return out, nil
}
