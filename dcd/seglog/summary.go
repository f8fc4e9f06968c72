package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Summaries are checkpoints: pages outside the ring that say, in a few bytes a record, what
// segments hold, so that recovery need not read the segments themselves. They are an aid: where
// one is missing or damaged, recovery walks the segments. A page is written only when all its
// segments are durable, so whatever it names is there.
//
// Page format, version 1, little-endian, in the checkpoint area, which is used as a ring:
//
//	 0  magic "SUM1"           16  log UUID          48  position of the first segment
//	 4  CRC32C of the page     32  page position     56  hash of the header before the first segment
//	 8  bytes, all (u32)       40  first LSN         64  epoch
//	12  segments (u32)
//	72  for each segment, as varints: bytes / 512, header bytes / 512, LSN - durable-through,
//	    records; 8 bytes of header hash; for each record: length / 512 << 4 | kind << 1 | flag,
//	    and the zigzag difference of its sector to where the record before ended
const (
	sumMagic   = 0x314d5553 // "SUM1"
	sumHeader  = 72
	maxSummary = 256 << 10
	maxEntry   = 64 // more than the fixed part of a segment's entry takes
	maxRecEnt  = 16
)

// sumPage is a page that is in the area and still of use.
type sumPage struct {
	at    Pos // virtual position in the area
	bytes int64
	last  LSN
}

// summaries collect what is sealed and write it, a page at a time.
type summaries struct {
	unit    int64 // pages are multiples of it
	every   int64 // bytes of log that a page should cover
	buf     []byte
	n       int
	first   LSN
	from    Pos // of the first segment
	end     Pos // of the last one
	prev    uint64
	covered int64
	sector  int64 // where the last record ended

	pages []sumPage
	next  Pos // where the next page goes

	out  []byte // the page in flight
	page sumPage
	req  blk.Request
	busy bool
	done bool
	off  bool  // an I/O error: no more pages
	at   int64 // when the write in flight began

	Written uint64 // pages, in this life
}

func (l *Log) openSummaries() error {
	s := &l.sums
	s.unit = max(int64(l.super.BlockBytes), 4096)
	// Pages are padded: there are at most half as many as the area has room for.
	s.every = min(max(l.super.RingBytes/400, 2*l.super.RingBytes*s.unit/max(l.super.CheckpointBytes, 1), 4096), 32<<20)
	if l.dev == nil || l.super.CheckpointBytes < s.unit {
		s.off = true
		return nil
	}
	var err error
	s.out, err = blk.Alloc(int(min(maxSummary, l.super.CheckpointBytes)))
	s.buf = make([]byte, 0, maxSummary+maxEntry)
	return err
}

// Complete records the end of a page's write.
func (s *summaries) Complete(*blk.Request) { s.busy, s.done = false, true }

// summarize takes a segment that has just become the newest.
func (l *Log) summarize(g *Segment) {
	s := &l.sums
	if s.off {
		return
	}
	if need := maxEntry + g.Records*maxRecEnt; len(s.buf)+need > len(s.out)-sumHeader {
		// The page before is not written yet, or this segment fits no page: recovery will walk.
		l.dropSummary()
		if need > len(s.out)-sumHeader {
			return
		}
	}
	if s.n == 0 {
		s.first, s.prev, s.sector, s.from, s.end = g.LSN, g.PrevHash, 0, g.Pos, g.Pos
	}
	b := binary.AppendUvarint(s.buf, uint64(g.Pos-s.end)/sectorBytes)
	s.end = g.Pos + Pos(l.padded(g.Bytes))
	b = binary.AppendUvarint(b, uint64(g.Bytes/sectorBytes))
	b = binary.AppendUvarint(b, uint64(g.HeaderBytes/sectorBytes))
	b = binary.AppendUvarint(b, g.LSN-g.Durable)
	b = binary.AppendUvarint(b, uint64(g.Records))
	b = le.AppendUint64(b, g.Hash)
	for i := range g.Records {
		r := g.Record(i)
		b = binary.AppendUvarint(b, uint64(r.Length/sectorBytes)<<4|uint64(r.Kind&7)<<1|uint64(r.Flags&1))
		b = binary.AppendVarint(b, r.Offset/sectorBytes-s.sector)
		s.sector = (r.Offset + r.Length) / sectorBytes
	}
	s.buf = b
	s.n++
	s.covered += int64(g.Bytes)
}

func (l *Log) dropSummary() {
	s := &l.sums
	s.buf, s.n, s.covered = s.buf[:0], 0, 0
}

// kickSummaries writes the page that is full, once its segments are durable.
func (l *Log) kickSummaries() {
	s := &l.sums
	if s.done {
		s.done = false
		if s.req.Err != 0 {
			s.off = true // the log itself says what is wrong with the device
			return
		}
		s.pages = append(s.pages, s.page)
		s.Written++
		l.noteSummaries()
	}
	if s.off || s.busy || s.n == 0 || l.dev == nil || l.failed != nil || s.covered < s.every && len(s.buf) < len(s.out)/2 {
		return
	}
	last := s.first + LSN(s.n) - 1
	if l.durable < last {
		return
	}
	n := (int64(sumHeader+len(s.buf)) + s.unit - 1) / s.unit * s.unit
	area := l.super.CheckpointBytes / s.unit * s.unit
	at := s.next
	if int64(at%Pos(area))+n > area {
		at = (at/Pos(area) + 1) * Pos(area) // pages do not wrap
	}
	l.prunePages()
	if len(s.pages) > 0 && int64(at-s.pages[0].at)+n > area {
		if s.covered > 4*s.every || len(s.buf) > len(s.out)*3/4 {
			l.dropSummary() // no room: what it covers will be walked
		}
		return
	}
	b := s.out[:n]
	clear(b)
	le.PutUint32(b, sumMagic)
	le.PutUint32(b[8:], uint32(n))
	le.PutUint32(b[12:], uint32(s.n))
	copy(b[16:32], l.super.Log[:])
	le.PutUint64(b[32:], at)
	le.PutUint64(b[40:], s.first)
	le.PutUint64(b[48:], s.from)
	le.PutUint64(b[56:], s.prev)
	le.PutUint64(b[64:], l.super.SumEpoch)
	copy(b[sumHeader:], s.buf)
	le.PutUint32(b[4:], crc32.Checksum(b, crcTab))
	s.page = sumPage{at, n, last}
	s.next = at + Pos(n)
	l.dropSummary()
	s.busy, s.at = true, l.now
	s.req = blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: l.super.CheckpointOffset + int64(at%Pos(area)), Length: n, Buf: b, Owner: s}
	l.dev.Submit(&s.req)
}

// prunePages forgets pages that name nothing behind the recovery start.
func (l *Log) prunePages() {
	s := &l.sums
	for len(s.pages) > 0 && s.pages[0].last < l.super.Start.LSN {
		s.pages = s.pages[1:]
	}
}

// noteSummaries puts where recovery finds the first page of use into the superblock, which is
// written when something else calls for it.
func (l *Log) noteSummaries() {
	s := &l.sums
	l.prunePages()
	if l.super.SumPos = s.next; len(s.pages) > 0 {
		l.super.SumPos = s.pages[0].at
	}
}

// endSummaries makes every page worthless, because segments they name are cut.
func (l *Log) endSummaries() {
	l.dropSummary()
	l.sums.pages = nil
	l.super.SumEpoch++
	l.super.SumPos = l.sums.next
}

var errNoPage = errors.New("seglog: no summary page")

// pageReader reads pages during recovery.
type pageReader struct {
	l     *Log
	drive blk.Drive
	buf   []byte
	at    Pos // the next page's
	b     []byte
	first LSN
	last  LSN
	from  Pos
	prev  uint64
	ended bool
	Bytes int64
}

// load reads the page at p.at, or says that there is none.
func (p *pageReader) load() error {
	l := p.l
	s := &l.sums
	area := l.super.CheckpointBytes / s.unit * s.unit
	off := int64(p.at % Pos(area))
	if p.buf == nil {
		var err error
		if p.buf, err = blk.Alloc(len(s.out)); err != nil {
			return err
		}
	}
	n := min(int64(len(p.buf)), area-off)
	read := func(from, to int64) error {
		r := &blk.Request{Op: blk.Read, Offset: l.super.CheckpointOffset + off + from, Length: to - from, Buf: p.buf[from:to]}
		p.Bytes += to - from
		return blk.Do(l.dev, r, p.drive)
	}
	if err := read(0, s.unit); err != nil {
		return errNoPage
	}
	b := p.buf
	size := int64(le.Uint32(b[8:]))
	if le.Uint32(b) != sumMagic || size < s.unit || size > n || size%s.unit != 0 || le.Uint64(b[32:]) != p.at ||
		UUID(b[16:32]) != l.super.Log || le.Uint64(b[64:]) != l.super.SumEpoch {
		return errNoPage
	}
	if size > s.unit && read(s.unit, size) != nil {
		return errNoPage
	}
	b = b[:size]
	sum := le.Uint32(b[4:])
	le.PutUint32(b[4:], 0)
	if crc32.Checksum(b, crcTab) != sum {
		return errNoPage
	}
	p.first, p.from, p.prev = le.Uint64(b[40:]), le.Uint64(b[48:]), le.Uint64(b[56:])
	p.last = p.first + LSN(le.Uint32(b[12:])) - 1
	p.b = b[sumHeader:]
	s.pages = append(s.pages, sumPage{p.at, size, p.last})
	p.at += Pos(size)
	s.next = p.at
	return nil
}

// find makes the page that holds lsn, or the first one behind it, the current one.
func (p *pageReader) find(lsn LSN) {
	for !p.ended && (p.b == nil || p.last < lsn) {
		p.step()
	}
}

// step makes the next page the current one; skipped is how many bytes before it are no page, torn that
// one was begun there.
func (p *pageReader) step() (skipped Pos, torn bool) {
	l := p.l
	area := Pos(l.super.CheckpointBytes / l.sums.unit * l.sums.unit)
	at := p.at
	err := p.load()
	if torn = err != nil && p.begun(); err != nil && at%area != 0 {
		// The page may not have fitted before the end of the area.
		p.at = (at/area + 1) * area
		err = p.load()
	}
	// A damaged page does not say where the next one is.
	for skip := Pos(l.sums.unit); err != nil && skip <= min(maxSummary, area/2); skip += Pos(l.sums.unit) {
		p.at, skipped = at+skip, skip
		err = p.load()
	}
	if p.ended = err != nil; p.ended {
		p.at, skipped = at, 0
	}
	return skipped, torn
}

// begun reports whether what was read last is the head of the page that is due there.
func (p *pageReader) begun() bool {
	b := p.buf
	return len(b) >= sumHeader && le.Uint32(b) == sumMagic && le.Uint64(b[32:]) == p.at && UUID(b[16:32]) == p.l.super.Log && le.Uint64(b[64:]) == p.l.super.SumEpoch
}

// each gives the segments of the current page from lsn on, whose place and hash are known from
// the chain so far; it reports how many there were. A page that does not fit the chain gives none.
func (p *pageReader) each(lsn LSN, head Pos, prev uint64, visit func(g *Segment) error) (int, error) {
	b := p.b
	bad := false
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad = true
			return 0
		}
		b = b[n:]
		return v
	}
	l := p.l
	at, hash, sector, given := p.from, p.prev, int64(0), 0
	var recs []Record
	for x := p.first; x <= p.last; x++ {
		g := Segment{LSN: x, PrevHash: hash, Volume: l.super.Volume}
		g.Pos = at + Pos(next()*sectorBytes)
		g.Bytes, g.HeaderBytes = int(next())*sectorBytes, int(next())*sectorBytes
		g.Durable, g.Records = x-next(), int(next())
		if bad || len(b) < 8 || g.Bytes > int(l.super.MaxSegmentBytes) || g.Records > maxRecords || g.HeaderBytes > g.Bytes {
			return given, errNoPage
		}
		g.Hash = le.Uint64(b)
		b = b[8:]
		recs = recs[:0]
		off := g.HeaderBytes
		for range g.Records {
			v := next()
			d, n := binary.Varint(b)
			if n <= 0 || bad {
				return given, errNoPage
			}
			b = b[n:]
			r := Record{Length: int64(v>>4) * sectorBytes, Kind: Kind(v >> 1 & 7), Flags: uint8(v & 1), Offset: (sector + d) * sectorBytes, off: uint32(off), At: g.Pos + Pos(off)}
			if r.Length <= 0 || r.Offset < 0 || r.Offset > l.super.DiskBytes-r.Length {
				return given, errNoPage
			}
			sector = (r.Offset + r.Length) / sectorBytes
			if r.Kind == Data {
				off += int(r.Length)
			}
			recs = append(recs, r)
		}
		if x == lsn && (g.PrevHash != prev || g.Pos < head || g.Pos-head >= Pos(l.super.ChunkBytes)) {
			return 0, errNoPage // another history, or another place
		}
		if x >= lsn {
			g.list = recs
			if err := visit(&g); err != nil {
				return given, err
			}
			given++
		}
		at, hash = g.Pos+Pos(l.padded(g.Bytes)), g.Hash
	}
	return given, nil
}

func (p *pageReader) close() { blk.Free(p.buf) }

var errTooMany = fmt.Errorf("%w: more segments than a log of this size holds", ErrBadSuper)
