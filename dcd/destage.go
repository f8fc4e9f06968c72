package dcd

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"syscall"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// destager moves what the log holds to the data disk, a batch of segments at a time: collect,
// sort, write, flush, forget, release. Space is never given up before the flush.
type destager struct {
	c      *Cache
	reader *seglog.Reader
	buf    []byte
	pieces []piece
	reqs   []blk.Request

	phase   phase
	next    int   // request to submit
	out     int   // requests in flight
	written int64 // bytes of the batch that have reached the disk
	err     syscall.Errno
	last    seglog.LSN // of the batch
	begun   int64
	all     bool // destage everything now
	prints  []print
	changed bool // a completion has come since the last kick
	held    bool // hold destage altogether
	paused  bool // by the user: until space is wanted
	zeros   []zeroOp
	zeroAt  int // of zeros: to be submitted
	zreqs   [4]blk.Request
	zero    []byte
}

// piece is one block's part of one record.
type piece struct {
	block uint32
	base  uint32
	mask  uint8 // sectors to write
	live  bool  // the map names it: to be cleared afterwards
	order uint32
	first int // the sector of the block that src begins with
	src   []byte
}

// print is a new fingerprint of one sector, valid once the batch is flushed.
type print struct {
	i int
	v uint64
}

type phase uint8

const (
	resting phase = iota
	zeroing
	writing
	flushing
)

func (d *destager) open(c *Cache) (err error) {
	d.c = c
	blocks := c.o.DestageBytes / BlockBytes * growBatch
	// A piece that wraps a batch's last segment may need more than the budget.
	blocks += int(c.log.Super().MaxSegmentBytes)/blk.SectorBytes + 1
	if d.buf, err = blk.Alloc(blocks * BlockBytes); err != nil {
		return err
	}
	d.pieces = make([]piece, 0, 2*blocks)
	d.reqs = make([]blk.Request, 0, 2*blocks)
	d.prints = make([]print, 0, seglog.FingerprintSectors)
	d.reader = c.log.NewReader("destage", c.log.First()-1)
	return nil
}

func (d *destager) free() error {
	err := blk.Free(d.buf)
	d.buf = nil
	if d.zero != nil {
		err = errors.Join(err, blk.Free(d.zero))
		d.zero = nil
	}
	return err
}

// Complete records that a write or flush of the batch is over.
func (d *destager) Complete(r *blk.Request) {
	d.out--
	d.changed = true
	switch d.phase {
	case zeroing:
		r.Owner = nil
	case writing:
		d.written += r.Length
	}
	if r.Err != 0 && d.err == 0 {
		d.err = r.Err
	}
}

func (d *destager) dirty() bool { return d.changed }

// limit is the newest LSN that may be destaged.
func (d *destager) limit() seglog.LSN {
	if Planted && Plant == "destage-beyond" {
		return d.c.log.Sealed()
	}
	return min(d.c.log.Durable(), d.c.DestageLimit)
}

// wanted reports whether a batch should begin now.
func (d *destager) wanted(now blk.Instant) (yes bool, wake int64) {
	c := d.c
	if d.held || c.y.active > 0 && !(Planted && Plant == "bypass-destage-goes-on") || d.reader.Position() >= d.limit() || c.dataErr != nil && !c.remote || c.data == nil && !c.remote {
		return false, blk.Never
	}
	if d.paused && !d.all && !c.full && !c.remote && c.logErr == nil {
		return false, blk.Never
	}
	idle := c.lastIO + c.o.IdleNanos
	if d.all || c.full || c.remote || c.logErr != nil || now.Mono >= idle {
		return true, blk.Never
	}
	if c.p.share() > 0 {
		return now.Mono >= c.p.nextBatch, min(idle, c.p.nextBatch)
	}
	return false, idle
}

func (d *destager) kick(now blk.Instant) (wake int64) {
	c := d.c
	if d.changed && d.phase == zeroing {
		d.begun = max(d.begun, now.Mono) // a range of any size takes its time: what counts is that it goes on
	}
	d.changed = false
	if d.phase != resting && now.Mono-d.begun > c.o.DiskNanos {
		c.dataFailed(fmt.Errorf("the data disk did not finish a destage batch within %d s", c.o.DiskNanos/1e9))
	}
	switch d.phase {
	case zeroing:
		if d.submitZeros() {
			return d.deadline(now)
		}
		d.phase = writing
		fallthrough
	case writing:
		d.submit(now)
		if d.out > 0 {
			return d.deadline(now)
		}
		if !d.flush() {
			return d.deadline(now)
		}
		fallthrough
	case flushing:
		if d.out > 0 {
			return d.deadline(now)
		}
		d.finish(now)
	}
	if now.Mono == 0 {
		return blk.Never // blk.Do knows no time yet: a batch begun now would look ages old
	}
	if c.b.pending() || c.m.busy {
		return blk.Never // a block of a full sync came before what could be destaged now
	}
	yes, wake := d.wanted(now)
	if !yes {
		return wake
	}
	if c.remote && (c.dataErr != nil || c.data == nil) {
		d.forget()
		return blk.Never
	}
	if d.collect() {
		if Planted && Plant == "zero-drop-early" {
			c.zeros.drop(d.last)
		}
		d.begin(now)
		return d.deadline(now)
	}
	d.abandon()
	return blk.Never
}

// deadline is when the batch's next step must have come; Never once it has passed.
func (d *destager) deadline(now blk.Instant) int64 {
	if at := d.begun + d.c.o.DiskNanos + 1; at > now.Mono {
		return at
	}
	return blk.Never
}

// collect takes segments up to the batch's budget, as many as RAM has or were read back at one go;
// with Ordered one. It reports whether there is anything to do.
func (d *destager) collect() bool {
	d.pieces, d.last, d.zeros, d.prints = d.pieces[:0], 0, d.zeros[:0], d.prints[:0]
	d.zeroAt = 0
	budget := d.c.p.budget()
	for len(d.pieces) < budget {
		if d.last != 0 && (d.c.o.Ordered || !d.reader.Ready()) {
			break // what must be read back first makes a batch of its own
		}
		s := d.reader.Next(d.limit())
		if s == nil {
			if err := d.reader.Err(); err != nil && d.c.logErr == nil {
				d.c.logErr = err
			}
			break
		}
		d.take(s)
		d.last = s.LSN
	}
	return d.last != 0
}

// take adds a segment's pieces that must reach the disk: those the map still names, and those
// that only a version beyond the limit has replaced, because that one may yet be cut.
func (d *destager) take(s *seglog.Segment) {
	beyond := d.c.log.Head()
	if l := d.limit(); l < d.c.log.Sealed() {
		i, _ := d.c.log.Lookup(l + 1)
		beyond = i.Pos
	}
	for i := range s.Records {
		r := s.Record(i)
		if isZeroing(r.Kind) {
			d.takeZero(&r)
			continue
		}
		payload := s.Payload(r) // nil of what went past the log
		for off := int64(0); off < int64(len(payload)); {
			at := r.Offset + off
			in := at % BlockBytes
			n := min(r.Length-off, BlockBytes-in)
			first := in / blk.SectorBytes
			p := piece{block: uint32(at / BlockBytes), base: base(r.At+seglog.Pos(off), first), order: uint32(len(d.pieces)), src: payload[off : off+n], first: int(first),
				mask: sectorMask(in, in+n)}
			d.judge(&p, beyond)
			off += n
		}
	}
}

// judge keeps the sectors of p that must be written.
func (d *destager) judge(p *piece, beyond seglog.Pos) {
	c := d.c
	var live, later uint8
	for i := c.idx.first(p.block); i >= 0; i = c.idx.next(p.block, i) {
		m := c.idx.masks[i]
		switch {
		case c.idx.bases[i] == p.base:
			live |= m & p.mask
		case m != 0 && c.pos(c.idx.bases[i], bits.TrailingZeros8(m)) >= beyond && !(Planted && Plant == "skip-superseded"):
			later |= m & p.mask
		}
	}
	if !(Planted && Plant == "zero-forget-limit") {
		later |= p.mask &^ live & c.zeros.later(p.block, d.limit())
	}
	if c.o.Ordered {
		later = p.mask &^ live // each version reaches the disk in its turn
	}
	gone := p.mask &^ (live | later)
	c.count.SupersededBytes += uint64(bits.OnesCount8(gone)) * blk.SectorBytes
	q := *p
	if q.mask, q.live = live, true; live != 0 {
		d.pieces = append(d.pieces, q)
	}
	if q.mask, q.live = later, false; later != 0 {
		d.pieces = append(d.pieces, q)
	}
}

// begin sorts the batch by address, resolves what it holds twice, lays it out in the bounce
// buffer and starts writing.
func (d *destager) begin(now blk.Instant) {
	slices.SortFunc(d.pieces, func(a, b piece) int {
		if a.block != b.block {
			return int(int64(a.block) - int64(b.block))
		}
		return int(int64(a.order) - int64(b.order))
	})
	d.reqs = d.reqs[:0]
	used := 0
	for i := 0; i < len(d.pieces); {
		block := d.pieces[i].block
		out := d.buf[used : used+BlockBytes]
		var mask uint8
		for ; i < len(d.pieces) && d.pieces[i].block == block; i++ {
			p := &d.pieces[i]
			for s := range sectors {
				if p.mask&(1<<s) != 0 {
					from := (s - p.first) * blk.SectorBytes
					copy(out[s*blk.SectorBytes:(s+1)*blk.SectorBytes], p.src[from:from+blk.SectorBytes])
				}
			}
			mask |= p.mask
		}
		d.lay(block, mask, out)
		used += BlockBytes
	}
	d.next, d.out, d.err, d.begun, d.phase, d.written = 0, 0, 0, now.Mono, zeroing, 0
	if !d.submitZeros() {
		d.phase = writing
		d.submit(now)
	}
	d.changed = d.changed || d.out == 0 // all of it was superseded: nothing will come back
}

// lay makes the writes of one block, or lengthens the last one when it goes on there.
func (d *destager) lay(block uint32, mask uint8, out []byte) {
	for s := 0; s < sectors; {
		if mask&(1<<s) == 0 {
			s++
			continue
		}
		e := s
		for e < sectors && mask&(1<<e) != 0 {
			e++
		}
		off, n := int64(block)*BlockBytes+int64(s)*blk.SectorBytes, int64(e-s)*blk.SectorBytes
		buf := out[s*blk.SectorBytes : e*blk.SectorBytes]
		d.c.count.DestagedBytes += uint64(n)
		d.fingerprint(off, buf)
		if k := len(d.reqs) - 1; k >= 0 && d.reqs[k].Offset+d.reqs[k].Length == off && adjacent(d.reqs[k].Buf, buf) {
			q := &d.reqs[k]
			q.Length += n
			q.Buf = q.Buf[:q.Length]
		} else {
			d.reqs = append(d.reqs, blk.Request{Op: blk.Write, Offset: off, Length: n, Buf: buf, Owner: d})
		}
		s = e
	}
}

// adjacent reports whether b begins in memory where a ends; both are slices of one buffer.
func adjacent(a, b []byte) bool { return cap(a)-len(a) == cap(b) }

func (d *destager) fingerprint(off int64, b []byte) {
	printsIn(off, off+int64(len(b)), d.c.info.SizeBytes, func(k int, at int64) {
		d.prints = append(d.prints, print{k, sectorHash(b[at-off:][:blk.SectorBytes])})
	})
}

func (d *destager) submit(now blk.Instant) {
	depth := d.c.p.depth(now)
	for d.next < len(d.reqs) && d.out < depth && d.err == 0 {
		d.out++
		d.next++
		d.c.data.Submit(&d.reqs[d.next-1])
	}
}

// flush starts the batch's flush; false: a write has failed.
func (d *destager) flush() bool {
	if d.err != 0 {
		d.fail()
		return false
	}
	d.phase, d.out = flushing, 1
	d.reqs = append(d.reqs[:0], blk.Request{Op: blk.Flush, Owner: d})
	if Planted && Plant == "skip-flush" {
		d.out = 0
		return true
	}
	d.c.data.Submit(&d.reqs[0])
	return true
}

// fail ends a batch that did not reach the disk: one failed write or flush, and the disk counts
// as failed, because what the kernel then drops cannot be known.
func (d *destager) fail() {
	d.phase = resting
	d.c.dataFailed(fmt.Errorf("destage: %w", d.err))
	d.reader.Rewind(d.reader.Kept())
}

// finish forgets what is on the disk now and gives its space up.
func (d *destager) finish(now blk.Instant) {
	if d.err != 0 {
		d.fail()
		return
	}
	d.phase = resting
	c := d.c
	for i := range d.pieces {
		if p := &d.pieces[i]; p.live {
			c.idx.clear(p.block, p.mask, p.base)
		}
	}
	c.zeros.drop(d.last)
	s := c.log.Super()
	for _, p := range d.prints {
		s.Fingerprint[p.i] = p.v
	}
	c.count.DestageBatches++
	c.p.finished(len(d.pieces), now.Mono-d.begun, now)
	d.release(d.last)
}

func (d *destager) release(lsn seglog.LSN) {
	c := d.c
	c.cleared = max(c.cleared, lsn)
	d.reader.Release(lsn)
	c.full = false
	if c.idle() {
		c.log.Trim()
	}
}

// idle reports whether nothing is left to destage.
func (c *Cache) idle() bool { return c.d.reader.Position() >= c.log.Sealed() }

// forget drops mappings without writing: the peer holds what is within the limit.
func (d *destager) forget() {
	for range 64 {
		s := d.reader.Next(d.limit())
		if s == nil {
			break
		}
		d.last = s.LSN
		for i := range s.Records {
			r := s.Record(i)
			for off := int64(0); off < r.Length && r.Kind == seglog.Data; {
				at := r.Offset + off
				n := min(r.Length-off, BlockBytes-at%BlockBytes)
				d.c.idx.clear(uint32(at/BlockBytes), fullMask, base(r.At+seglog.Pos(off), at%BlockBytes/blk.SectorBytes))
				off += n
			}
		}
		d.c.zeros.drop(s.LSN)
		d.release(s.LSN)
	}
	d.abandon()
}

var errBusy = errors.New("dcd: a destage batch is in flight")
