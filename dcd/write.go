package dcd

import (
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// maxRecords bounds the records of one segment.
const maxRecords = 512

// ackable is the newest LSN whose writes may be acknowledged.
func (c *Cache) ackable() seglog.LSN {
	if Planted && Plant == "ack-early" {
		return min(c.log.Sealed(), c.AckLimit)
	}
	return min(c.log.Durable(), c.AckLimit)
}

// acknowledge completes the writes that are durable everywhere they have to be.
func (c *Cache) acknowledge(now blk.Instant) {
	if d := c.log.Durable(); d != c.logged {
		c.Passed(blk.LogDone, d, now)
		c.logged = d
	}
	limit := c.ackable()
	for r := c.waiting.Head(); r != nil; r = c.waiting.Head() {
		failed := c.stopped || c.closed && r.LSN > limit || c.logErr != nil && !c.remote && !c.doubt && r.LSN > c.log.Durable()
		if !failed && (r.LSN > limit || c.held) {
			return
		}
		c.waiting.Pop()
		if r.Op == blk.Write && r.Left == bypassed {
			c.y.settle(r, failed)
		}
		if failed {
			c.refuse(r)
			continue
		}
		r.Owner.Complete(r)
	}
}

// Passed stamps writes up to lsn that wait to be acknowledged, where they are traced, unless they had
// passed s before.
func (c *Cache) Passed(s blk.Stage, lsn seglog.LSN, now blk.Instant) {
	for r := c.waiting.Head(); r != nil && r.LSN <= lsn; r = r.Next {
		if r.Stamps != nil && r.Stamps[s] == 0 {
			r.Stamp(s, now)
		}
	}
}

// writable reports whether new writes can be kept: with log and data disk, or with a peer that
// stands in for what is lost.
func (c *Cache) writable() bool {
	return !c.stopped && !c.closed && (c.remote || c.logErr == nil && c.dataErr == nil)
}

// commit is the group commit: while no append is in flight, everything that waits goes into
// segments, one record a request, up to what a segment holds.
func (c *Cache) commit(now blk.Instant) (wake int64) {
	if !c.writable() {
		if c.doubt && !c.stopped && !c.closed {
			return blk.Never
		}
		for r := c.pending.Pop(); r != nil; r = c.pending.Pop() {
			c.refuse(r)
		}
		c.y.refuse()
		return blk.Never
	}
	if !c.held {
		c.y.start(now)
	}
	for (c.pending.Head() != nil || c.y.ready.Head() != nil) && (c.log.InFlight() == 0 || c.o.WriteCache) && !c.held {
		limit, wake := c.p.admit(now)
		if limit == 0 {
			return wake
		}
		if wake, wait := c.p.gather(c.pending.Len(), now); wait && !c.o.WriteCache {
			return wake
		}
		past := min(c.y.ready.Len(), maxRecords/2)
		n, payload := c.gather(limit, past)
		if n+past == 0 {
			return blk.Never
		}
		if !c.log.Begin(n+past, payload) {
			if c.o.WriteCache && c.log.InFlight() > 0 {
				return blk.Never // it may be RAM that is full: the append's end tells
			}
			if !c.full {
				c.count.Throttled++
			}
			c.full = true
			c.y.relent()
			return blk.Never
		}
		c.full = false
		c.count.Commits++
		c.p.committed(n + past)
		c.p.used(payload + int64(c.log.Super().BlockBytes))
		c.y.record(past)
		for range n {
			r := c.pending.Pop()
			r.Stamp(blk.Begun, now)
			c.record(r)
			r.LSN = c.log.Sealed() + 1
			if c.o.WriteCache && r.Flags&blk.FUA == 0 {
				c.cached.Push(r)
			} else {
				c.waiting.Push(r)
			}
		}
		c.log.Seal(now)
		for r := c.cached.Pop(); r != nil; r = c.cached.Pop() {
			r.Owner.Complete(r) // RAM has it, and RAM outlives the process
		}
	}
	return blk.Never
}

// record puts one request into the open segment and what it changes into the map.
func (c *Cache) record(r *blk.Request) {
	switch r.Op {
	case blk.Write:
		p := c.log.Add(seglog.Data, r.Offset, r.Length, r.Buf)
		c.mapRange(r.Offset, r.Length, p)
		return
	case blk.Discard:
		c.log.AddRange(seglog.Discard, 0, r.Offset, r.Length)
	default:
		var f uint8
		if r.Flags&blk.NoUnmap != 0 {
			f = seglog.KeepSpace
		}
		c.log.AddRange(seglog.WriteZeroes, f, r.Offset, r.Length)
	}
	c.zeroRange(r.Offset, r.Length, c.log.Sealed()+1)
}

// gather counts how many pending requests, and payload bytes, the next segment takes beside more
// records without payload: as many as fit, and, but for one, within limit.
func (c *Cache) gather(limit int64, more int) (n int, payload int64) {
	blocks, zeros := 0, 0
	for r := c.pending.Head(); r != nil && n+more < maxRecords; r = r.Next {
		if c.lockLen > 0 && r.Offset < c.lockOff+c.lockLen && c.lockOff < r.Offset+r.Length || c.y.overlaps(r.Offset, r.Length) {
			break
		}
		if r.Op != blk.Write {
			if zeros++; !c.zeros.room(zeros) {
				c.full = true
				break
			}
			n++
			continue
		}
		if payload+r.Length > c.log.MaxPayload(n+more+1) || n > 0 && payload+r.Length > limit {
			break
		}
		blocks += int(r.Length/BlockBytes) + 2
		if !c.idx.room(blocks) {
			c.full = true
			break
		}
		payload += r.Length
		n++
	}
	return n, payload
}
