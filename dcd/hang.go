package dcd

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// sweepNanos is how often reads under way are compared with their deadline.
const sweepNanos = 1_000_000_000

// SetDiskDeadline changes how long data disk and log may take to answer, in ns, also for what is under way;
// 0: DefaultDiskNanos.
func (c *Cache) SetDiskDeadline(ns int64) {
	if ns == 0 {
		ns = DefaultDiskNanos
	}
	c.o.DiskNanos = ns
	c.log.SetDeadline(ns)
}

// DiskDeadline is how long they may, in ns.
func (c *Cache) DiskDeadline() int64 { return c.o.DiskNanos }

// sweep looks whether a disk has failed to answer within its deadline. If so it counts as failed,
// and every read that waits for it is served anew without it, in a spare buffer: its own stays in
// quarantine until the kernel gives it back.
func (q *reads) sweep(now blk.Instant) (wake int64) {
	if q.active == 0 {
		return blk.Never
	}
	if now.Mono-q.swept < sweepNanos {
		return q.swept + sweepNanos
	}
	q.swept = now.Mono
	c := q.c
	for i := range q.parts {
		p := &q.parts[i]
		if p.parent == nil || p.from == fromPeer || p.sent == 0 || now.Mono-p.sent <= c.o.DiskNanos {
			continue
		}
		if p.from == fromLog {
			c.log.Fail(fmt.Errorf("a read of the log did not return within %d s", c.o.DiskNanos/1e9))
			c.noteLog()
		} else {
			c.dataFailed(fmt.Errorf("a read of the data disk did not return within %d s", c.o.DiskNanos/1e9))
		}
		q.redo(p.parent)
	}
	return now.Mono + sweepNanos
}

// redo serves r anew, without what it waits for.
func (q *reads) redo(r *blk.Request) {
	h := &quarantine{buf: r.Buf[:cap(r.Buf)]}
	spare := q.spare(cap(r.Buf))
	if spare == nil {
		return // no memory: it goes on waiting, and the next sweep comes by
	}
	for i := range q.parts {
		if p := &q.parts[i]; p.parent == r {
			p.parent, p.held = nil, h
			h.left++
		}
	}
	q.kept++
	r.Buf, r.Err, r.Left = spare[:r.Length:cap(h.buf)], 0, 0
	q.active--
	q.blocked.Push(r)
}

// spare gives a buffer of n bytes.
func (q *reads) spare(n int) []byte {
	for i, b := range q.spares {
		if cap(b) >= n {
			q.spares = append(q.spares[:i], q.spares[i+1:]...)
			return b
		}
	}
	b, err := blk.Alloc(n)
	if err != nil {
		return nil
	}
	return b
}

// letGo is told that a part of a quarantined request has come back.
func (q *reads) letGo(h *quarantine) {
	if h.left--; h.left == 0 {
		q.kept--
		q.spares = append(q.spares, h.buf)
	}
}
