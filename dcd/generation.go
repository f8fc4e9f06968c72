package dcd

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// A sync that fits the log is staged there as a generation: its blocks lie in front of the segments that follow
// them, and both come to nothing, or become the copy, with one superblock. Then the blocks go to the data disk.
// Until they are there nothing is destaged: they belong under every segment. For a sector that no segment of
// the generation holds all blocks over it say the same, and otherwise the segment counts.

// generation brings a stage's blocks to the data disk.
type generation struct {
	c       *Cache
	ticket  uint64     // of the superblock that shows it
	at      seglog.Pos // of the next block
	end     seglog.Pos // behind the last one
	number  uint64
	buf     []byte // as read from the log, from which it is written
	have    []byte // what of it is not written yet
	zero    []byte
	slots   [genWrites]genWrite
	out     int         // writes in flight
	req     blk.Request // a read of the log, or the flush
	asked   bool        // it is in flight
	came    bool        // it has come back
	phase   genPhase
	back    bool  // something has, since the last kick
	since   int64 // when what is under way began
	waiting blk.Queue

	touched [seglog.FingerprintSectors]bool // sectors that a block holds
	prints  [seglog.FingerprintSectors]uint64
}

// genWrite is a block on its way.
type genWrite struct {
	blk.Request
	g    *generation
	busy bool
	came bool
}

type genPhase uint8

const (
	genIdle genPhase = iota
	genWriting
	genFlushing
)

const (
	genWrites = 32
	genBytes  = 2 << 20 // read at one go
	genZero   = 1 << 20 // the longest block
)

// Complete records that a block has reached the disk.
func (w *genWrite) Complete(*blk.Request) { w.came, w.g.back = true, true }

// Complete records that blocks were read, or the disk flushed.
func (g *generation) Complete(*blk.Request) { g.asked, g.came, g.back = false, true, true }

// BeginStage begins a generation behind LSN p.LSN-1 of the primary's chain, which is empty but for a stage of bytes: see
// seglog. Everything must be on the data disk, or staged already: what is there stays the copy. Nothing may be in flight.
func (c *Cache) BeginStage(p seglog.Point, bytes int64, id uint64, change func(s *seglog.Super), drive blk.Drive) error {
	if c.d.phase != resting || c.b.out > 0 {
		return errBusy
	}
	if !c.log.Staging() && c.Dirty() > 0 {
		return errors.New("dcd: what shall stay visible is not on the data disk")
	}
	if err := c.log.BeginStage(p, bytes, id, change, drive); err != nil {
		return err
	}
	c.gen.touched = [seglog.FingerprintSectors]bool{}
	c.restarted(p.LSN - 1)
	return nil
}

// DropStage gives a generation up that is staged: the copy is the data disk again. See seglog for change.
func (c *Cache) DropStage(change func(s *seglog.Super), drive blk.Drive) error {
	if c.d.phase != resting || c.b.out > 0 {
		return errBusy
	}
	at := c.log.Super().Visible.LSN - 1
	if err := c.log.DropStage(change, drive); err != nil {
		return err
	}
	c.restarted(at)
	return nil
}

// Stage takes the block of a sync into the stage: see seglog.
func (c *Cache) Stage(r *blk.Request, zero bool) (ok, free bool) {
	if ok, free = c.log.Stage(r, zero); ok {
		c.gen.touch(r.Offset, r.Length)
	}
	return ok, free
}

// ShowStage makes a staged generation the copy, with the superblock's ticket: see seglog. Its blocks then go to the
// data disk; reads wait for that.
func (c *Cache) ShowStage(change func(s *seglog.Super)) (ticket uint64) {
	c.gen.ticket = c.log.ShowStage(func(s *seglog.Super) {
		c.gen.forget(s)
		change(s)
	})
	return c.gen.ticket
}

// Staging reports whether the log holds a generation that is not visible; the cache then reads as that will, but
// for its blocks.
func (c *Cache) Staging() bool { return c.log.Staging() }

// Applying reports whether blocks of a sync are in the log that belong on the data disk.
func (c *Cache) Applying() bool { return c.log.Applying() }

// holds reports whether nothing may be destaged.
func (g *generation) holds() bool {
	c := g.c
	if Planted && Plant == "gen-destages" {
		return false
	}
	return c.log.Super().StageBytes > 0 && !(c.remote && (c.dataErr != nil || c.data == nil))
}

func (g *generation) open() {
	for i := range g.slots {
		g.slots[i].g, g.slots[i].Owner = g, &g.slots[i]
	}
	if g.c.log.Applying() {
		g.forget(g.c.log.Super())
	}
}

func (g *generation) free() error {
	err := errors.Join(blk.Free(g.buf), blk.Free(g.zero))
	g.buf, g.zero = nil, nil
	return err
}

// busy reports whether anything is in flight.
func (g *generation) busy() bool { return g.out > 0 || g.asked }

// rests reports whether there is nothing to do: no stage, and nobody who waited for one.
func (g *generation) rests() bool {
	return !g.back && !g.busy() && g.waiting.Head() == nil && g.c.log.Super().StageBytes == 0
}

// touch notes that a block holds a range.
func (g *generation) touch(off, n int64) {
	printsIn(off, off+n, g.c.info.SizeBytes, func(k int, _ int64) { g.touched[k] = true })
}

// forget takes what the blocks change out of the fingerprint, until they are on the disk.
func (g *generation) forget(s *seglog.Super) {
	for k, t := range g.touched {
		if g.prints[k] = 0; t {
			s.Fingerprint[k] = 0
		}
	}
}

// kick goes on bringing the blocks to the data disk.
func (g *generation) kick(now blk.Instant) (wake int64) {
	c := g.c
	if g.back {
		g.back = false
		g.since = max(g.since, now.Mono) // blk.Do knows no time yet
		g.collect()
	}
	if g.busy() && now.Mono-g.since > c.o.DiskNanos {
		err := fmt.Errorf("no answer within %d s", c.o.DiskNanos/1e9)
		if g.asked && g.req.Op == blk.Read {
			g.lost(fmt.Errorf("read the blocks of a sync: %w", err))
		} else {
			g.fail(err)
		}
	}
	if !g.waits() {
		for r := g.waiting.Pop(); r != nil; r = g.waiting.Pop() {
			c.r.submit(r)
		}
		return g.deadline(now)
	}
	if c.log.Updated() < g.ticket {
		return blk.Never
	}
	switch {
	case c.d.held || now.Mono == 0:
	case g.phase == genIdle:
		g.start()
		g.since = now.Mono
		fallthrough
	case g.phase == genWriting:
		g.submit()
	case !g.asked:
		g.finish()
	}
	if g.back || !c.log.Applying() {
		return now.Mono
	}
	return g.deadline(now)
}

func (g *generation) deadline(now blk.Instant) int64 {
	if at := g.since + g.c.o.DiskNanos + 1; g.busy() && at > now.Mono {
		return at
	}
	return blk.Never
}

func (g *generation) start() {
	g.at, g.end = g.c.log.StageEnd()
	g.number, g.have, g.phase = 0, nil, genWriting
}

// collect takes what came back.
func (g *generation) collect() {
	c := g.c
	for i := range g.slots {
		w := &g.slots[i]
		if !w.came {
			continue
		}
		w.came, w.busy = false, false
		g.out--
		if w.Err != 0 {
			g.fail(w.Err)
			continue
		}
		printsIn(w.Offset, w.Offset+w.Length, c.info.SizeBytes, func(k int, at int64) {
			g.prints[k] = sectorHash(w.Buf[at-w.Offset:][:blk.SectorBytes])
		})
	}
	if !g.came {
		return
	}
	g.came = false
	switch r := &g.req; {
	case r.Op == blk.Flush && r.Err != 0:
		g.fail(r.Err)
	case r.Op == blk.Flush:
	case r.Err != 0:
		if r.Replaced(g.buf) {
			g.buf = nil // the device hangs and may still write to it
		}
		g.lost(fmt.Errorf("read the blocks of a sync: %w", r.Err))
	default:
		g.have = r.Buf
	}
}

// fail: one write or flush has failed, and the disk counts as failed.
func (g *generation) fail(err error) {
	g.c.dataFailed(fmt.Errorf("write the blocks of a sync: %w", err))
}

// lost says that the blocks cannot be read: neither log nor data disk is the copy any more.
func (g *generation) lost(err error) {
	if g.c.logErr == nil {
		g.c.logErr = err
	}
	g.c.dataFailed(fmt.Errorf("what the data disk lacks lay on the log that is lost: %w", err))
}

// submit writes what was read, and reads on.
func (g *generation) submit() {
	c := g.c
	for {
		s, n, short, ok := c.log.ParseStaged(g.have, g.number)
		if g.at >= g.end {
			break
		}
		if !ok && !short && len(g.have) > 0 {
			g.lost(errors.New("a block is damaged"))
			return
		}
		if short || len(g.have) == 0 {
			g.readOn()
			return
		}
		w := g.slot(s.Offset, s.Length)
		if w == nil {
			return
		}
		w.Request = blk.Request{Op: blk.Write, Offset: s.Offset, Length: s.Length, Buf: s.Payload, Owner: w}
		if s.Payload == nil {
			if w.Buf = g.zeros(s.Length); w.Buf == nil {
				return
			}
		}
		w.busy = true
		g.out++
		g.have, g.at, g.number = g.have[n:], g.at+seglog.Pos(n), g.number+1
		c.data.Submit(&w.Request)
	}
	if g.out > 0 {
		return
	}
	g.phase = genFlushing
	if Planted && Plant == "gen-no-flush" {
		g.back = true
		return
	}
	g.ask(c.data, blk.Request{Op: blk.Flush})
}

// ask submits the one request that is not a write.
func (g *generation) ask(dev blk.Device, r blk.Request) {
	g.asked, g.req = true, r
	g.req.Owner = g
	dev.Submit(&g.req)
}

// slot is free for a block; nil: none is, or one over the same range is under way: what the disk holds then is
// what the fingerprint says only if it gets them one after the other.
func (g *generation) slot(off, n int64) (free *genWrite) {
	for i := range g.slots {
		switch w := &g.slots[i]; {
		case !w.busy:
			free = w
		case w.Offset < off+n && off < w.Offset+w.Length:
			return nil
		}
	}
	return free
}

func (g *generation) zeros(n int64) []byte {
	if g.zero == nil {
		var err error
		if g.zero, err = blk.Alloc(genZero); err != nil {
			g.fail(err)
			return nil
		}
	}
	return g.zero[:n]
}

// readOn reads from the next block on, once everything read before is on the disk.
func (g *generation) readOn() {
	if g.out > 0 || g.asked {
		return
	}
	if g.buf == nil {
		var err error
		if g.buf, err = blk.Alloc(genBytes); err != nil {
			g.fail(err)
			return
		}
	}
	g.have = nil
	n := min(int64(len(g.buf)), int64(g.end-g.at))
	g.ask(g.c.log.Device(), blk.Request{Op: blk.Read, Offset: g.c.log.DeviceOffset(g.at), Length: n, Buf: g.buf[:n]})
}

// finish: all blocks are durable on the data disk, and the log's space is given back.
func (g *generation) finish() {
	c := g.c
	g.phase = genIdle
	for k, v := range g.prints {
		if v != 0 {
			c.log.Super().Fingerprint[k] = v
		}
	}
	g.touched = [seglog.FingerprintSectors]bool{}
	c.log.EndStage()
	c.full = false
	if err := g.free(); err != nil {
		c.dataFailed(err)
	}
}

// waits reports whether reads wait: the data disk lacks blocks that will come.
func (g *generation) waits() bool {
	return g.c.log.Applying() && g.c.dataErr == nil && g.c.data != nil
}

// parks reports whether a read has to wait.
func (g *generation) parks() bool { return g.waits() && !(Planted && Plant == "gen-reads-through") }

// left is how much of the stage is not known to be on the data disk.
func (g *generation) left() int64 {
	if !g.c.log.Applying() {
		return 0
	}
	at, end := g.c.log.StageEnd()
	if g.phase != genIdle {
		at = g.at
	}
	return max(int64(end-at), 1)
}
