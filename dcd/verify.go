package dcd

import (
	"errors"
	"sort"
	"syscall"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// What a read takes from the log device is compared with the checksums of the records it lies in: what rotted
// there, or was put elsewhere, is not the client's to find. Whole records are read for that, and once for each
// segment its table of records, which is kept for a while.
const (
	tableSlots = 512
	tableSpans = 1 << 19  // records in all tables, at most: 6 MiB
	tableAhead = 64 << 10 // so much of a segment is read with its table
	bounces    = 32       // buffers for reads that do not end where records and blocks do
)

// table says where a segment's payloads lie and what they must be.
type table struct {
	lsn  seglog.LSN
	hash uint64
	recs []span
}

// span is one record's payload: where in the segment, how long, and its CRC32C.
type span struct{ at, n, crc uint32 }

// cover gives the records that part p of segment s lies in, and from where to where they do; none when no records do.
func (t *table) cover(s *seglog.Segment, p *part) (recs []span, from, to seglog.Pos) {
	at, end := uint32(p.at-s.Pos), uint32(p.at-s.Pos)+uint32(len(p.want))
	i := sort.Search(len(t.recs), func(k int) bool { return t.recs[k].at+t.recs[k].n > at })
	j := i + sort.Search(len(t.recs)-i, func(k int) bool { return t.recs[i+k].at+t.recs[i+k].n >= end }) + 1
	if j > len(t.recs) || t.recs[i].at > at {
		return nil, 0, 0
	}
	last := t.recs[j-1]
	return t.recs[i:j], s.Pos + seglog.Pos(t.recs[i].at), s.Pos + seglog.Pos(last.at+last.n)
}

// verifier reads the log device for the client.
type verifier struct {
	c       *Cache
	tables  [tableSlots]*table
	spans   int
	free    [][]byte // bounce buffers
	made    int
	starved blk.Queue // parts that wait for one
}

// submit reads part p, whose place and target are set, with as much around it as it takes to check it.
func (v *verifier) submit(p *part) {
	l := v.c.log
	s, ok := l.Lookup(p.LSN)
	if !ok || l.Device() == nil || p.parent == nil {
		v.fail(p, syscall.EIO)
		return
	}
	if t := v.tables[p.LSN%tableSlots]; t != nil && t.lsn == p.LSN && t.hash == s.Hash {
		p.table = t
	}
	from, to := s.Pos, s.Pos+seglog.Pos(min(s.Bytes, max(l.HeaderBytes(s.Records), tableAhead)))
	if p.table != nil {
		var recs []span
		if recs, from, to = p.table.cover(&s, p); recs == nil {
			v.fail(p, syscall.EIO)
			return
		}
	}
	block := seglog.Pos(l.Super().BlockBytes)
	from, to = from/block*block, (to+block-1)/block*block
	p.base, p.Length, p.Buf = from, int64(to-from), p.want
	if from != p.at || p.Length != int64(len(p.want)) {
		if p.bounce == nil {
			p.bounce = v.take()
		}
		if p.bounce == nil {
			v.starved.Push(&p.Request)
			return
		}
		p.Buf = p.bounce[:p.Length]
	}
	p.Op, p.Offset, p.Err = blk.Read, l.DeviceOffset(from), 0
	l.Device().Submit(&p.Request)
}

// fail makes p come back with an error.
func (v *verifier) fail(p *part, e syscall.Errno) {
	p.Err = e
	v.c.r.done.Push(&p.Request)
}

// back is told that the device has answered p. It reports whether p is done with, its target filled or its
// error set; otherwise more is being read.
func (v *verifier) back(p *part) (done bool) {
	if p.Err != 0 || p.parent == nil {
		v.give(p)
		return true
	}
	s, _ := v.c.log.Lookup(p.LSN) // it is pinned
	if p.table == nil {
		if p.table = v.learn(&s, p); p.table != nil {
			if _, _, to := p.table.cover(&s, p); to > p.base+seglog.Pos(p.Length) {
				v.submit(p) // it lies beyond what was read with the table
				return false
			}
		}
	}
	if p.table == nil || !v.check(&s, p) {
		v.c.count.Rotten++
		v.c.count.RottenLSN, p.Err = p.LSN, syscall.EIO
	}
	v.give(p)
	return true
}

// learn reads the table of segment s out of its beginning, which p brought; nil: that is damaged.
func (v *verifier) learn(s *seglog.Segment, p *part) *table {
	h, err := seglog.ParseHeader(p.Buf, s.Bytes)
	if err != nil || p.base != s.Pos || h.Hash != s.Hash || h.Records != s.Records {
		return nil
	}
	h.Raw, h.Pos = p.Buf, s.Pos
	t := &table{lsn: p.LSN, hash: s.Hash}
	for i := range h.Records {
		if r := h.Record(i); r.Kind == seglog.Data {
			t.recs = append(t.recs, span{uint32(r.At - s.Pos), uint32(r.Length), r.CRC})
		}
	}
	if v.spans += len(t.recs); v.spans > tableSpans {
		clear(v.tables[:])
		v.spans = len(t.recs)
	}
	slot := &v.tables[p.LSN%tableSlots]
	if *slot != nil {
		v.spans -= len((*slot).recs)
	}
	*slot = t
	return t
}

// check compares what p brought with the checksums, and fills its target; false: that is damaged.
func (v *verifier) check(s *seglog.Segment, p *part) bool {
	recs, from, to := p.table.cover(s, p)
	if recs == nil || from < p.base || to > p.base+seglog.Pos(p.Length) {
		return false
	}
	for _, r := range recs {
		if seglog.Checksum(p.Buf[s.Pos+seglog.Pos(r.at)-p.base:][:r.n]) != r.crc {
			return false
		}
	}
	if p.bounce != nil {
		copy(p.want, p.Buf[p.at-p.base:])
	}
	return true
}

// close frees the buffers; nothing may be in flight.
func (v *verifier) close() (err error) {
	for _, b := range v.free {
		err = errors.Join(err, blk.Free(b))
	}
	v.free = nil
	return err
}

// take gives a bounce buffer, or nil: all are in use.
func (v *verifier) take() []byte {
	if n := len(v.free); n > 0 {
		b := v.free[n-1]
		v.free = v.free[:n-1]
		return b
	}
	if v.made == bounces {
		return nil
	}
	const most = 64 << 10 // of a log's block
	b, err := blk.Alloc((int(v.c.log.Super().MaxSegmentBytes) + 2*most) / most * most)
	if err != nil {
		return nil
	}
	v.made++
	return b
}

// give takes what p used back, and lets a part that waited for it go on.
func (v *verifier) give(p *part) {
	p.table, p.Buf = nil, p.want
	p.Length = int64(len(p.want))
	if p.bounce == nil {
		return
	}
	v.free, p.bounce = append(v.free, p.bounce), nil
	if r := v.starved.Pop(); r != nil {
		v.submit(&v.c.r.parts[r.Tag])
	}
}
