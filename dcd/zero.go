package dcd

import (
	"slices"
	"sort"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// maxExtents is how many ranges may be discarded or zeroed and not yet destaged: when the list
// is full, the next one waits for destage. Splits while the log is recovered may exceed it.
const maxExtents = 8192

// extent is a range that reads as zeros because segment lsn says so; what was written after it is
// in the map, which is looked at first.
type extent struct {
	off, end int64
	lsn      seglog.LSN
}

// extents are sorted and do not overlap. Two that touch are one only if one segment made both:
// each goes when its own segment is destaged, neither earlier nor later.
type extents struct{ list []extent }

// room reports whether n more ranges may be added: each may split another one.
func (x *extents) room(n int) bool { return len(x.list)+2*n <= maxExtents }

// at is the index of the first extent that ends after off.
func (x *extents) at(off int64) int {
	return sort.Search(len(x.list), func(i int) bool { return x.list[i].end > off })
}

// add makes [off, end) zero as of lsn; what older extents say of it is replaced.
func (x *extents) add(off, end int64, lsn seglog.LSN) {
	i := x.at(off)
	j := i
	for j < len(x.list) && x.list[j].off < end {
		j++
	}
	var with [3]extent
	n := 0
	if i < j && x.list[i].off < off {
		with[n] = extent{x.list[i].off, off, x.list[i].lsn}
		n++
	}
	with[n] = extent{off, end, lsn}
	n++
	if i < j && x.list[j-1].end > end {
		with[n] = extent{end, x.list[j-1].end, x.list[j-1].lsn}
		n++
	}
	x.list = slices.Replace(x.list, i, j, with[:n]...)
	x.join(max(i-1, 0), i+n)
}

// join makes one of neighbours from first to last that touch and are of one segment.
func (x *extents) join(first, last int) {
	for i := min(last, len(x.list)-1); i > first; i-- {
		a, b := &x.list[i-1], &x.list[i]
		if a.end == b.off && a.lsn == b.lsn {
			a.end = b.end
			x.list = slices.Delete(x.list, i, i+1)
		}
	}
}

// span says how many bytes from off, up to end, are all zero or all not.
func (x *extents) span(off, end int64) (n int64, zero bool) {
	if len(x.list) == 0 {
		return end - off, false
	}
	i := x.at(off)
	switch {
	case i == len(x.list) || x.list[i].off >= end:
		return end - off, false
	case x.list[i].off > off:
		return x.list[i].off - off, false
	}
	return min(x.list[i].end, end) - off, true
}

// later gives the sectors of a block that a segment after lsn makes zero.
func (x *extents) later(block uint32, lsn seglog.LSN) (mask uint8) {
	if len(x.list) == 0 {
		return 0
	}
	off := int64(block) * BlockBytes
	for i := x.at(off); i < len(x.list) && x.list[i].off < off+BlockBytes; i++ {
		if e := x.list[i]; e.lsn > lsn {
			mask |= sectorMask(max(e.off, off)-off, min(e.end, off+BlockBytes)-off)
		}
	}
	return mask
}

// sectorMask has a bit for each sector of a block from byte a up to byte b.
func sectorMask(a, b int64) uint8 {
	return uint8(1<<(b/blk.SectorBytes) - 1<<(a/blk.SectorBytes))
}

// drop forgets what segments up to lsn made zero: the data disk has it now.
func (x *extents) drop(lsn seglog.LSN) {
	if len(x.list) > 0 {
		x.list = slices.DeleteFunc(x.list, func(e extent) bool { return e.lsn <= lsn })
	}
}

// bytes is how much the extents cover.
func (x *extents) bytes() (n int64) {
	for _, e := range x.list {
		n += e.end - e.off
	}
	return n
}

// isZeroing reports whether a record makes its range zero.
func isZeroing(k seglog.Kind) bool { return k == seglog.Discard || k == seglog.WriteZeroes }

// zeroRange takes a discarded or zeroed range out of the map.
func (c *Cache) zeroRange(off, n int64, lsn seglog.LSN) {
	c.zeros.add(off, off+n, lsn)
	c.lastZero = max(c.lastZero, lsn)
	if Planted && Plant == "zero-keeps-map" {
		return
	}
	c.unmapRange(off, n)
}

// unmapRange takes a range out of the map.
func (c *Cache) unmapRange(off, n int64) {
	first, last := off/BlockBytes, (off+n-1)/BlockBytes
	if last-first < int64(c.idx.n) {
		for b := first; b <= last; b++ {
			c.idx.remove(uint32(b), blockMask(b, off, off+n))
		}
		return
	}
	c.idx.removeIf(func(block, _ uint32, _ uint8) uint8 {
		if int64(block) < first || int64(block) > last {
			return 0
		}
		return blockMask(int64(block), off, off+n)
	})
}

// blockMask has a bit for each sector of block that lies in [off, end).
func blockMask(block, off, end int64) uint8 {
	at := block * BlockBytes
	return sectorMask(max(off, at)-at, min(end, at+BlockBytes)-at)
}

// zeroOp is one discard or write-zeroes of a batch, done in steps.
type zeroOp struct {
	off, end int64
	op       blk.Op
	flags    blk.Flags
}

// zeroStep is how much of a range is one request to the data disk, zeroFill how much where zeros
// have to be written because the disk offers nothing better.
const (
	zeroStep = 256 << 20
	zeroFill = 1 << 20
)

// takeZero adds a zeroing record to the batch. What the batch holds of older versions of its
// range must not come after it.
func (d *destager) takeZero(r *seglog.Record) {
	info := d.c.data.Info()
	z := zeroOp{off: r.Offset, end: r.Offset + r.Length, op: blk.Discard}
	if r.Kind == seglog.WriteZeroes || !info.Discard {
		z.op = blk.WriteZeroes
		if r.Flags&seglog.KeepSpace != 0 {
			z.flags = blk.NoUnmap
		}
	}
	if z.op == blk.WriteZeroes && !info.WriteZeroes {
		z.op, z.flags = blk.Write, 0
	}
	d.zeros = append(d.zeros, z)
	for i := range d.pieces {
		p := &d.pieces[i]
		if at := int64(p.block) * BlockBytes; at < z.end && z.off < at+BlockBytes {
			p.mask &^= blockMask(int64(p.block), z.off, z.end)
		}
	}
	printsIn(z.off, z.end, d.c.info.SizeBytes, func(k int, _ int64) { d.prints = append(d.prints, print{k, zeroHash}) })
}

var zeroHash = sectorHash(make([]byte, blk.SectorBytes))

// submitZeros keeps the batch's zeroing going; false: all of it is done.
func (d *destager) submitZeros() bool {
	for d.zeroAt < len(d.zeros) && d.out < len(d.zreqs) && d.err == 0 {
		z := &d.zeros[d.zeroAt]
		r := d.freeZero()
		n := min(z.end-z.off, zeroStep)
		*r = blk.Request{Op: z.op, Flags: z.flags, Offset: z.off, Owner: d}
		if z.op == blk.Write {
			n = min(n, zeroFill)
			r.Buf = d.zeroBuf()[:n]
		}
		r.Length = n
		if z.off += n; z.off == z.end {
			d.zeroAt++
		}
		d.out++
		d.c.count.ZeroedBytes += uint64(n)
		d.c.data.Submit(r)
	}
	return d.out > 0
}

// freeZero is a zeroing request that is not in flight: its owner is nil.
func (d *destager) freeZero() *blk.Request {
	for i := range d.zreqs {
		if d.zreqs[i].Owner == nil {
			return &d.zreqs[i]
		}
	}
	panic("dcd: more zeroing in flight than there are requests for it")
}

// zeroBuf is memory that holds zeros; only disks that cannot zero by themselves need it.
func (d *destager) zeroBuf() []byte {
	if d.zero == nil {
		b, err := blk.Alloc(zeroFill)
		if err != nil {
			b = make([]byte, zeroFill+4096) // unaligned at worst: the disk then says so
		}
		d.zero = b[:zeroFill]
	}
	return d.zero
}
