package dcd

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// DefaultBypass is how long a sequential run of writes must be before its further writes go straight
// to a data disk that has no arm to move, unless Options say otherwise.
const DefaultBypass = 4 << 20

const (
	bypassLeast  = 32 << 10 // shorter writes are always worth the log
	bypassSlots  = 32
	bypassStream = 8 // sequential runs that are told apart
)

// bypass takes large sequential writes around the log: first durably to the data disk, then a
// record that says so, and only when that is durable the acknowledgement. (With the record first, a
// power cut between the two would lose the older version too.) From the first byte to the durable
// record nothing else goes to the range: destage rests, later writes over it wait.
//
// It is only for a log whose sole reader is destage: a peer could not be sent what the log does
// not have. And only while no zeroing that a recovery might redo could hit the range again.
type bypass struct {
	c        *Cache
	least    int64 // length of a run; 0: never
	shortest int64 // write that is taken past the log
	slots    [bypassSlots]bypassSlot
	active   int
	ready    blk.Queue // the client's requests: on the disk, and not in a record yet
	back     blk.Queue // our own that came back
	runs     [bypassStream]seqRun
	clock    uint64
	ticket   uint64 // of the superblock that says that the log may hold such records; 0: not asked for
	asked    bool

	count, bytes uint64
}

type bypassSlot struct {
	blk.Request
	parent *blk.Request // nil: free
}

// seqRun is one stream of writes, each of which began where the one before ended.
type seqRun struct {
	end, bytes int64
	used       uint64
}

// Marks of the client's request, in Left, while the cache has it.
const (
	inLog      = 0
	sequential = 1 // may go around the log
	bypassed   = 2 // did
)

func (b *bypass) open(c *Cache, least int64) {
	b.c, b.shortest = c, bypassLeast
	b.set(least)
	for i := range b.slots {
		b.slots[i].Tag, b.slots[i].Owner = uint32(i), b
	}
}

// set changes the threshold: 0 the default for this disk, negative never.
func (b *bypass) set(least int64) {
	switch {
	case least < 0 || b.c.data == nil:
		least = 0
	case least == 0 && !b.c.data.Info().Rotational:
		least = DefaultBypass
	}
	b.least = least
}

// note sees every write as it comes, and marks those that are far enough into a sequential run.
func (b *bypass) note(r *blk.Request) {
	r.Left = inLog
	if b.least == 0 {
		return
	}
	b.clock++
	old := &b.runs[0]
	for i := range b.runs {
		if s := &b.runs[i]; s.end == r.Offset && s.bytes > 0 {
			old = s
			break
		} else if s.used < old.used {
			old = s
		}
	}
	if old.end != r.Offset {
		old.bytes = 0
	}
	old.end, old.used = r.Offset+r.Length, b.clock
	if old.bytes += r.Length; old.bytes > b.least && r.Length >= b.shortest {
		r.Left = sequential
	}
}

// Complete records that a write has reached the disk.
func (b *bypass) Complete(r *blk.Request) { b.back.Push(r) }

// overlaps reports whether a range is on its way around the log.
func (b *bypass) overlaps(off, n int64) bool {
	if b.active == 0 {
		return false
	}
	for i := range b.slots {
		if p := b.slots[i].parent; p != nil && p.Offset < off+n && off < p.Offset+p.Length {
			return true
		}
	}
	return false
}

// may reports whether r can go around the log now; what cannot takes the log.
func (b *bypass) may(r *blk.Request, now blk.Instant) bool {
	c := b.c
	if b.least == 0 || r.Left != sequential || c.o.Ordered || c.remote || c.follow || c.dataErr != nil || b.active == bypassSlots || c.d.phase != resting || c.log.Readers() != 1 {
		return false
	}
	if c.d.all || c.full || c.p.share() > 0 && now.Mono >= c.p.nextBatch {
		return false // destage goes first
	}
	if len(c.zeros.list) > 0 || c.lastZero >= c.log.First() || b.overlaps(r.Offset, r.Length) || c.lockLen > 0 || c.b.pending() {
		return false
	}
	guarded := false
	printsIn(r.Offset, r.Offset+r.Length, c.info.SizeBytes, func(int, int64) { guarded = true })
	if guarded {
		return false // what changes there must be in the log: see sightings
	}
	if !b.asked && c.log.Super().Incompat&seglog.Bypasses == 0 {
		b.ticket = c.log.Update(func(s *seglog.Super) { s.Incompat |= seglog.Bypasses })
	}
	b.asked = true
	return c.log.Updated() >= b.ticket
}

// start sends what waits, and may, around the log.
func (b *bypass) start(now blk.Instant) {
	c := b.c
	for r := c.pending.Head(); r != nil && r.Op == blk.Write && b.may(r, now); r = c.pending.Head() {
		c.pending.Pop()
		r.Stamp(blk.Begun, now)
		s := b.slotOf(nil)
		s.parent = r
		s.Op, s.Flags, s.Offset, s.Length, s.Buf = blk.Write, blk.FUA, r.Offset, r.Length, r.Buf
		if Planted && Plant == "bypass-no-fua" {
			s.Flags = 0
		}
		b.active++
		b.count++
		b.bytes += uint64(r.Length)
		if Planted && Plant == "bypass-record-first" {
			r.Left = bypassed
			b.ready.Push(r)
		}
		c.data.Submit(&s.Request)
	}
}

// slotOf is the slot of r, or, of nil, a free one.
func (b *bypass) slotOf(r *blk.Request) *bypassSlot {
	for i := range b.slots {
		if b.slots[i].parent == r {
			return &b.slots[i]
		}
	}
	panic("dcd: no such slot for a bypassed write")
}

// kick takes what has reached the disk on to its record.
func (b *bypass) kick() {
	for q := b.back.Pop(); q != nil; q = b.back.Pop() {
		r := b.slots[q.Tag].parent
		switch {
		case q.Err != 0:
			// One failed write: what the kernel then drops cannot be known.
			b.c.dataFailed(fmt.Errorf("write past the log: %w", q.Err))
			b.release(r)
			b.c.refuse(r)
		case r == nil || r.Left == bypassed: // planted only
		default:
			r.Left = bypassed
			b.ready.Push(r)
		}
	}
}

// record puts the records of n writes into the open segment.
func (b *bypass) record(n int) {
	c := b.c
	for range n {
		r := b.ready.Pop()
		c.log.AddRange(seglog.Bypass, 0, r.Offset, r.Length)
		r.LSN = c.log.Sealed() + 1
		c.waiting.Push(r)
	}
}

// settle is told that the record of r is durable, and what the log has of the range is old now; or
// that it could not be made.
func (b *bypass) settle(r *blk.Request, failed bool) {
	if !failed && !(Planted && Plant == "bypass-keeps-map") {
		b.c.unmapRange(r.Offset, r.Length)
	}
	b.release(r)
}

func (b *bypass) release(r *blk.Request) {
	b.slotOf(r).parent = nil
	b.active--
}

// relent gives what waits for a record to the log as ordinary writes: the log is full, and destage,
// which would make room, rests for them.
func (b *bypass) relent() {
	var q blk.Queue
	for r := b.ready.Pop(); r != nil; r = b.ready.Pop() {
		b.release(r)
		r.Left = inLog
		q.Push(r)
	}
	for r := b.c.pending.Pop(); r != nil; r = b.c.pending.Pop() {
		q.Push(r)
	}
	b.c.pending = q
}

// refuse ends what waits for a record that cannot be made any more.
func (b *bypass) refuse() {
	for r := b.ready.Pop(); r != nil; r = b.ready.Pop() {
		b.release(r)
		b.c.refuse(r)
	}
}
