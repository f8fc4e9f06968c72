package seglog

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/bits"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Dirty is the dirty map: which parts of the volume the peer lacks although their segments are not
// in the log any more. A bit is durable before a segment that sets it is given up; all bits are void
// once the superblock's mark DirtyMap is gone. Methods are the loop's.
//
// On the device it is a header page and pages of bits, each 4 KiB, little-endian:
//
//	header: 0 magic "DMP1"   4 CRC32C of the page   8 log UUID   24 epoch   32 bytes a bit stands for
//	       40 resume LSN    48 resume offset       56 points     64 points: LSN, header hash
//	bits:   0 magic "DMB1"   4 CRC32C of the page   8 epoch      16 bits, first one lowest
//
// A page of another epoch says that nothing is dirty; one that is damaged, that everything is.
type Dirty struct {
	l     *Log
	unit  int64  // bytes of the volume that a bit stands for
	bits  int64  // how many there are
	mem   []byte // the pages as they shall be on the device
	stale []bool // pages that are not written as they are in mem
	wrong int    // how many
	n     int64  // bits that are set

	points   []Point // LSN and hash of a peer that the map is good for, oldest first
	resumeAt LSN
	resume   int64

	out  []byte
	req  blk.Request
	busy bool
	done bool
	at   int64 // when the write in flight began
}

const (
	dirtyPage   = 4096
	dirtyHead   = 64
	dirtyBits   = (dirtyPage - 16) * 8
	dirtyPoints = (dirtyPage - dirtyHead) / 16
	dirtyWrite  = 64 << 10
	headMagic   = 0x31504d44 // "DMP1"
	bitsMagic   = 0x31424d44 // "DMB1"
)

func (l *Log) openDirty(drive blk.Drive) (err error) {
	d := &l.dirty
	d.l, d.unit = l, dirtyPage
	pages := func() int64 {
		d.bits = (l.super.DiskBytes + d.unit - 1) / d.unit
		return 1 + (d.bits+dirtyBits-1)/dirtyBits
	}
	for pages()*dirtyPage > l.super.DirtyBytes && l.super.DirtyBytes >= 2*dirtyPage {
		d.unit *= 2
	}
	n := int(pages())
	if d.mem, err = blk.Alloc(n * dirtyPage); err != nil {
		return err
	}
	d.stale = make([]bool, n)
	if l.dev == nil {
		return nil
	}
	if d.out, err = blk.Alloc(dirtyWrite); err != nil {
		return err
	}
	if l.super.Marks&DirtyMap != 0 {
		return d.load(drive)
	}
	return nil
}

// load reads the map that the superblock says is there.
func (d *Dirty) load(drive blk.Drive) error {
	l := d.l
	for at := 0; at < len(d.mem); at += dirtyWrite {
		n := min(dirtyWrite, len(d.mem)-at)
		r := &blk.Request{Op: blk.Read, Offset: l.super.DirtyOffset + int64(at), Length: int64(n), Buf: d.mem[at : at+n]}
		if err := blk.Do(l.dev, r, drive); err != nil {
			return fmt.Errorf("%w: dirty map: %w", ErrReadError, err)
		}
	}
	if h := d.mem[:dirtyPage]; d.headGood() {
		d.resumeAt, d.resume = le.Uint64(h[40:]), int64(le.Uint64(h[48:]))
		for i := range le.Uint64(h[56:]) {
			p := h[dirtyHead+16*i:]
			d.points = append(d.points, Point{LSN: le.Uint64(p), PrevHash: le.Uint64(p[8:])})
		}
	}
	for i := 1; i < len(d.stale); i++ {
		p := d.mem[i*dirtyPage : (i+1)*dirtyPage]
		switch current, damaged := d.page(i); {
		case damaged:
			fill(p[16:])
		case !current:
			clear(p)
		}
	}
	d.count()
	return nil
}

// headGood reports whether the map's head is whole and this map's.
func (d *Dirty) headGood() bool {
	h, s := d.mem[:dirtyPage], &d.l.super
	return le.Uint32(h) == headMagic && pageSum(h) == le.Uint32(h[4:]) && UUID(h[8:24]) == s.Log && le.Uint64(h[24:]) == s.DirtyEpoch &&
		int64(le.Uint64(h[32:])) == d.unit && le.Uint64(h[56:]) <= dirtyPoints
}

// page reports whether page i of bits is of this epoch, or damaged; neither: of none or an old one.
func (d *Dirty) page(i int) (current, damaged bool) {
	p := d.mem[i*dirtyPage : (i+1)*dirtyPage]
	if le.Uint32(p) == bitsMagic && pageSum(p) == le.Uint32(p[4:]) {
		return le.Uint64(p[8:]) == d.l.super.DirtyEpoch, false
	}
	return false, len(bytes.Trim(p, "\x00")) != 0
}

func fill(b []byte) {
	for i := range b {
		b[i] = 0xff
	}
}

func pageSum(p []byte) uint32 {
	return crc32.Update(crc32.Update(0, crcTab, p[:4]), crcTab, p[8:])
}

// count finds n again.
func (d *Dirty) count() { d.n = d.from(0) }

// from is how many bits are set from b on; bits behind the volume's end do not count.
func (d *Dirty) from(b int64) (n int64) {
	for ; b < d.bits; b += 8 - b%8 {
		i, _ := at(b)
		x := d.mem[i] >> (b % 8)
		if left := d.bits - b; left < 8 {
			x &= 1<<left - 1
		}
		n += int64(bits.OnesCount8(x))
	}
	return n
}

// at is where bit b lies in mem.
func at(b int64) (i int64, mask byte) {
	return (1+b/dirtyBits)*dirtyPage + 16 + b%dirtyBits/8, 1 << (b % 8)
}

func (d *Dirty) get(b int64) bool {
	i, mask := at(b)
	return d.mem[i]&mask != 0
}

// Active reports whether the map counts.
func (d *Dirty) Active() bool { return d.l.super.Marks&DirtyMap != 0 }

// Begin makes an empty map that is good for a peer at p: everything after p that it lacks will
// be marked, or is in the log. It counts, durably, with the ticket.
func (d *Dirty) Begin(p Point) (ticket uint64) {
	d.clear()
	d.Point(p)
	return d.l.Update(func(s *Super) {
		s.Marks |= DirtyMap
		s.Base = p.LSN
		s.DirtyEpoch++
	})
}

// End makes the map void; the superblock's ticket says when durably.
func (d *Dirty) End() (ticket uint64) {
	d.clear()
	return d.l.Update(func(s *Super) { s.Marks &^= DirtyMap })
}

func (d *Dirty) clear() {
	clear(d.mem)
	clear(d.stale)
	d.wrong, d.n, d.points, d.resumeAt, d.resume = 0, 0, d.points[:0], 0, 0
}

// Point says that the map is good for a peer whose chain ends at p, too. When there are too many the
// newest takes the place of the one before: a peer that was lost is near the oldest.
func (d *Dirty) Point(p Point) {
	if len(d.points) == dirtyPoints {
		d.points = d.points[:dirtyPoints-1]
	}
	d.points = append(d.points, p)
	d.touch(0)
}

// touch says that a page is to be written.
func (d *Dirty) touch(page int) {
	if !d.stale[page] {
		d.stale[page] = true
		d.wrong++
	}
}

// Knows reports whether the map is good for a peer whose chain ends at lsn with that hash.
func (d *Dirty) Knows(lsn LSN, hash uint64) bool {
	if !d.Active() {
		return false
	}
	for _, p := range d.points {
		if p.LSN == lsn && p.PrevHash == hash {
			return true
		}
	}
	return false
}

// Resume is the offset from which a resync that began at LSN at goes on, when that was its point.
func (d *Dirty) Resume() (at LSN, offset int64) { return d.resumeAt, d.resume }

// SetResume remembers how far a resync that began at LSN at is durable on the peer.
func (d *Dirty) SetResume(at LSN, offset int64) {
	d.resumeAt, d.resume = at, offset
	d.touch(0)
}

// Mark makes a range dirty.
func (d *Dirty) Mark(off, n int64) {
	for b := off / d.unit; b <= (off+n-1)/d.unit && b < d.bits; b++ {
		if i, mask := at(b); d.mem[i]&mask == 0 {
			d.mem[i] |= mask
			d.n++
			d.touch(int(1 + b/dirtyBits))
		}
	}
}

// MarkSegment makes dirty what a segment changes.
func (d *Dirty) MarkSegment(s *Segment) {
	for i := range s.Records {
		r := s.Record(i)
		d.Mark(r.Offset, r.Length)
	}
}

// MarkAll makes the whole volume dirty.
func (d *Dirty) MarkAll() {
	for i := 1; i < len(d.stale); i++ {
		fill(d.mem[i*dirtyPage+16 : (i+1)*dirtyPage])
		d.touch(i)
	}
	d.n = d.bits
}

// Unit is how many bytes of the volume a bit stands for.
func (d *Dirty) Unit() int64 { return d.unit }

// Bytes is how much of the volume is dirty, in whole units.
func (d *Dirty) Bytes() int64 { return d.n * d.unit }

// BytesFrom is how much of it lies at or after off.
func (d *Dirty) BytesFrom(off int64) int64 { return d.from(off/d.unit) * d.unit }

// Next is the first dirty range at or after off, no longer than limit; n is 0 when there is none.
func (d *Dirty) Next(off, limit int64) (from, n int64) {
	b := off / d.unit
	for b < d.bits && !d.get(b) {
		if i, mask := at(b); mask == 1 && d.mem[i] == 0 && b%dirtyBits+8 <= dirtyBits {
			b += 8
			continue
		}
		b++
	}
	if b >= d.bits {
		return d.l.super.DiskBytes, 0
	}
	from = max(b*d.unit, off)
	end := (b + 1) * d.unit
	for b++; b < d.bits && d.get(b) && end-from < limit; b++ {
		end += d.unit
	}
	return from, min(end-from, limit, d.l.super.DiskBytes-from)
}

// Durable reports whether everything marked is on the device.
func (d *Dirty) Durable() bool {
	return !d.busy && !d.done && d.wrong == 0
}

// Complete records the end of a write.
func (d *Dirty) Complete(*blk.Request) { d.busy, d.done = false, true }

// kick writes the pages that changed, some neighbours at a time.
func (d *Dirty) kick() {
	l := d.l
	if d.done {
		d.done = false
		if d.req.Err != 0 {
			l.Fail(fmt.Errorf("seglog: dirty map: %w", d.req.Err))
		}
	}
	if d.wrong == 0 || d.busy || l.failed != nil {
		return
	}
	if l.dev == nil || !d.Active() {
		clear(d.stale)
		d.wrong = 0
		return
	}
	first := 0
	for first < len(d.stale) && !d.stale[first] {
		first++
	}
	n := 0
	for ; first+n < len(d.stale) && d.stale[first+n] && n < dirtyWrite/dirtyPage; n++ {
		d.encode(first + n)
		d.stale[first+n] = false
		d.wrong--
	}
	copy(d.out, d.mem[first*dirtyPage:(first+n)*dirtyPage])
	d.busy, d.at = true, l.now
	d.req = blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: l.super.DirtyOffset + int64(first)*dirtyPage, Length: int64(n) * dirtyPage, Buf: d.out[:n*dirtyPage], Owner: d}
	l.dev.Submit(&d.req)
}

// encode brings a page's head up to date.
func (d *Dirty) encode(i int) {
	p := d.mem[i*dirtyPage : (i+1)*dirtyPage]
	s := &d.l.super
	if i == 0 {
		clear(p)
		le.PutUint32(p, headMagic)
		copy(p[8:], s.Log[:])
		for k, v := range []uint64{s.DirtyEpoch, uint64(d.unit), d.resumeAt, uint64(d.resume), uint64(len(d.points))} {
			le.PutUint64(p[24+8*k:], v)
		}
		for k, q := range d.points {
			le.PutUint64(p[dirtyHead+16*k:], q.LSN)
			le.PutUint64(p[dirtyHead+16*k+8:], q.PrevHash)
		}
	} else {
		le.PutUint32(p, bitsMagic)
		le.PutUint64(p[8:], s.DirtyEpoch)
	}
	le.PutUint32(p[4:], pageSum(p))
}

func (d *Dirty) close() error {
	err := blk.Free(d.mem)
	if e := blk.Free(d.out); err == nil {
		err = e
	}
	d.mem, d.out = nil, nil
	return err
}
