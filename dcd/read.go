package dcd

import (
	"syscall"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// reads are the client's reads under way: each is split, when it is submitted, into runs that
// come from one place. What RAM has is copied at once; the rest become parts that read straight
// into the request's buffer. Nothing is looked up again when a part returns: what has been
// destaged meanwhile would be missed.
type reads struct {
	c       *Cache
	parts   []part
	free    []uint32
	done    blk.Queue // parts that came back
	blocked blk.Queue // requests for which there were not enough parts
	active  int       // requests with parts out
	swept   int64
	now     int64
	spares  [][]byte // buffers that came back from quarantine
	kept    int      // buffers in quarantine
}

type source uint8

const (
	fromData source = iota
	fromLog
	fromPeer
	fromNowhere // the disk that it should come from is lost
)

type part struct {
	blk.Request
	parent  *blk.Request
	from    source
	pin     uint8
	at      seglog.Pos
	sent    int64
	want    []byte     // the client's buffer
	bounce  []byte     // of a read of the log that needs one of its own
	base    seglog.Pos // where what is read of the log begins
	table   *table
	mend    bool        // the data disk could not read it
	cleared seglog.LSN  // what it held then
	held    *quarantine // the part's request was answered without it
}

// quarantine is a buffer that the kernel may still write to, because a disk does not answer.
type quarantine struct {
	buf  []byte
	left int // parts that have not come back
}

func (q *reads) open(c *Cache) error {
	q.c = c
	q.parts, q.free = make([]part, readParts), make([]uint32, readParts)
	for i := range q.parts {
		q.parts[i].Tag, q.parts[i].Owner = uint32(i), q
		q.free[i] = uint32(readParts - 1 - i)
	}
	return nil
}

// Complete records that a part came back.
func (q *reads) Complete(r *blk.Request) { q.done.Push(r) }

func (q *reads) submit(r *blk.Request) {
	// At worst every sector comes from another place.
	if q.blocked.Head() != nil || len(q.free) < min(int(r.Length/blk.SectorBytes), readParts) {
		q.blocked.Push(r)
		return
	}
	q.split(r)
}

// run is a stretch of a request that comes from one place.
type run struct {
	off, n int64 // in the request
	from   origin
	at     seglog.Pos
}

// origin is where a stretch comes from.
type origin uint8

const (
	unmapped origin = iota
	mapped
	zeroed
)

// split walks the request's sectors and serves or sends each run.
func (q *reads) split(r *blk.Request) {
	c := q.c
	if r.Stamps != nil {
		r.Stamps[blk.Begun] = max(r.Stamps[blk.Pickup], q.now) // q.now is of the batch before, unless r had to wait
	}
	r.Left = 1 // held by this walk
	q.active++
	cur := run{}
	for off := int64(0); off < r.Length; {
		block, first := (r.Offset+off)/BlockBytes, int((r.Offset+off)%BlockBytes/blk.SectorBytes)
		last := min(first+int((r.Length-off)/blk.SectorBytes), sectors)
		i := c.idx.first(uint32(block))
		if i < 0 {
			for end := off + int64(last-first)*blk.SectorBytes; off < end; {
				n, zero := c.zeros.span(r.Offset+off, r.Offset+end)
				x := run{off: off, n: n}
				if zero {
					x.from = zeroed
				}
				cur = q.extend(r, cur, x)
				off += n
			}
			continue
		}
		for s := first; s < last; s++ {
			x := run{off: off, n: blk.SectorBytes}
			for j := i; j >= 0; j = c.idx.next(uint32(block), j) {
				if c.idx.masks[j]&(1<<s) != 0 {
					x.from, x.at = mapped, c.pos(c.idx.bases[j], s)
					break
				}
			}
			if _, zero := c.zeros.span(r.Offset+off, r.Offset+off+blk.SectorBytes); zero && x.from == unmapped {
				x.from = zeroed
			}
			cur = q.extend(r, cur, x)
			off += blk.SectorBytes
		}
	}
	q.serve(r, cur)
	q.finish(r)
}

// extend appends x to cur where both come from one place, else serves cur.
func (q *reads) extend(r *blk.Request, cur, x run) run {
	if cur.n > 0 && cur.from == x.from && (x.from != mapped || cur.at+seglog.Pos(cur.n) == x.at) {
		cur.n += x.n
		return cur
	}
	q.serve(r, cur)
	return x
}

func (q *reads) serve(r *blk.Request, x run) {
	c := q.c
	if x.n == 0 {
		return
	}
	buf := r.Buf[x.off : x.off+x.n]
	if x.from == zeroed {
		clear(buf)
		c.count.ReadZero++
		return
	}
	if x.from == mapped {
		if b := c.log.RAM(x.at, int(x.n)); b != nil {
			copy(buf, b)
			c.count.ReadRAM++
			return
		}
	}
	p := &q.parts[q.free[len(q.free)-1]]
	q.free = q.free[:len(q.free)-1]
	p.parent, p.sent, p.at, p.want = r, q.now, x.at, buf
	p.Op, p.Offset, p.Length, p.Buf, p.Err, p.LSN, p.Flags = blk.Read, r.Offset+x.off, x.n, buf, 0, 0, 0
	r.Left++
	switch {
	case x.from == mapped && c.log.Device() != nil:
		p.from, p.pin, p.LSN = fromLog, c.log.Pin(), c.log.LSNAt(x.at)
		c.count.ReadLog++
		c.v.submit(p)
	case x.from == unmapped && c.dataErr == nil && c.data != nil && !c.missing(r.Offset+x.off+x.n):
		p.from = fromData
		c.count.ReadData++
		c.data.Submit(&p.Request)
	default:
		if p.from = fromNowhere; x.from == mapped {
			p.LSN = c.log.LSNAt(x.at) // the log is lost: the peer must have this version at least
		}
		p.Err = syscall.EIO
		q.done.Push(&p.Request)
	}
}

// kick follows up on parts that came back, and on requests that had to wait for parts.
func (q *reads) kick(now blk.Instant) (wake int64) {
	q.now = now.Mono
	for r := q.done.Pop(); r != nil; r = q.done.Pop() {
		q.back(&q.parts[r.Tag], now)
	}
	for r := q.blocked.Head(); r != nil && len(q.free) >= min(int(r.Length/blk.SectorBytes), readParts); r = q.blocked.Head() {
		q.blocked.Pop()
		q.split(r)
	}
	return q.sweep(now)
}

func (q *reads) back(p *part, now blk.Instant) {
	c, r := q.c, p.parent
	if p.from == fromLog {
		if !c.v.back(p) {
			return
		}
		c.log.Unpin(p.pin)
	}
	if r == nil {
		q.free = append(q.free, p.Tag)
		q.letGo(p.held)
		p.held = nil
		return
	}
	if p.Err != 0 && p.from != fromPeer && c.fallback != nil {
		// The peer must hold at least what the mapping, or its absence, stands for.
		if p.mend = p.from == fromData; p.from != fromLog {
			p.LSN = max(p.LSN, c.cleared)
			p.cleared = c.cleared
		}
		p.Offset = r.Offset + sliceOffset(r.Buf, p.Buf)
		p.from, p.Err, p.sent = fromPeer, 0, now.Mono
		c.count.ReadPeer++
		r.Stamp(blk.PeerSent, now)
		c.fallback.Submit(&p.Request)
		return
	}
	if p.Err != 0 && r.Err == 0 {
		r.Err = p.Err
	}
	switch p.from { // where it was served; none of them: RAM
	case fromData:
		r.Stamp(blk.DataDone, now)
	case fromLog:
		r.Stamp(blk.LogDone, now)
	case fromPeer:
		r.Stamp(blk.PeerAcked, now)
		if p.mend && p.Err == 0 {
			c.m.take(&p.Request, p.cleared)
		}
	}
	p.mend = false
	p.parent = nil
	q.free = append(q.free, p.Tag)
	q.finish(r)
}

// sliceOffset is where part begins in whole, of whose memory it is a slice.
func sliceOffset(whole, part []byte) int64 { return int64(cap(whole) - cap(part)) }

func (q *reads) finish(r *blk.Request) {
	if r.Left--; r.Left > 0 {
		return
	}
	q.active--
	r.Owner.Complete(r)
}
