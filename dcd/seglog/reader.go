package seglog

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Reader is one of the log's jobs: destage, ship, history. Space is reused only when every
// Reader has released it.
type Reader struct {
	Name string
	log  *Log
	next LSN // to be given
	kept LSN // all up to it are released

	buf     []byte // for segments that RAM has no more
	req     blk.Request
	state   fetchState
	stale   bool // what is being fetched is not wanted any more
	pin     uint8
	asked   Pos // where the read under way begins
	askedAt int64
	from    Pos // buf holds [from, to)
	to      Pos
	seg     Segment
	err     error
}

type fetchState uint8

const (
	idle fetchState = iota
	fetching
	fetched
)

// NewReader makes a reader that gives the segments after from, which must not be reclaimed yet.
func (l *Log) NewReader(name string, from LSN) *Reader {
	from = max(from, l.first-1)
	r := &Reader{Name: name, log: l, next: from + 1, kept: from}
	l.readers = append(l.readers, r)
	return r
}

// readBytes is how much is read back at one go: many small segments, or one large one.
const readBytes = 1 << 20

// Ready reports whether Next will give a segment, or an error, without a read of the log device.
func (r *Reader) Ready() bool {
	l := r.log
	if r.next > l.sealed || r.err != nil || r.state == fetching {
		return false
	}
	i := l.info(r.next)
	return r.state == fetched || l.RAM(i.pos, int(i.bytes)) != nil || r.has(i)
}

// has reports whether segment i is among what was read back.
func (r *Reader) has(i *segInfo) bool { return i.pos >= r.from && i.pos+Pos(i.bytes) <= r.to }

// Next gives the next segment up to limit, or nil: there is none, or it is still being read
// from the log device (the loop comes by again), or Err says why it cannot be had. Raw is valid
// until the next call, and until Next has to read again: see Ready.
func (r *Reader) Next(limit LSN) *Segment {
	l := r.log
	if r.next > l.sealed || r.next > limit || r.err != nil || r.state == fetching {
		return nil
	}
	i := l.info(r.next)
	if r.state == fetched {
		r.state = idle
		if r.req.Err != 0 {
			r.err = fmt.Errorf("seglog: read LSN %d: %w", r.next, r.req.Err)
			return nil
		}
		r.from, r.to = r.asked, r.asked+Pos(r.req.Length)
	}
	raw := l.RAM(i.pos, int(i.bytes))
	back := raw == nil
	if back {
		if !r.has(i) {
			return r.fetch(i)
		}
		at := int(i.pos - r.from)
		raw = r.buf[at : at+int(i.bytes)]
	}
	var s Segment
	var err error
	if back {
		s, err = Parse(raw, int(i.bytes))
	} else { // it was written, or checked, here, and nothing else writes there
		s, _, err = readHeader(raw, int(i.bytes))
		s.Hash = i.hash
	}
	if err == nil && s.Hash != i.hash {
		err = fmt.Errorf("%w: LSN %d was replaced by another", ErrCorrupt, r.next)
	}
	if err != nil {
		r.err = err
		return nil
	}
	s.Pos, s.Raw = i.pos, raw
	r.seg = s
	r.next++
	return &r.seg
}

// Unread makes Next give the segment again that it has just given: its bytes may be overwritten
// before they can be used.
func (r *Reader) Unread() { r.next-- }

// fetch begins to read segment i and those behind it, as many as the buffer takes.
func (r *Reader) fetch(i *segInfo) *Segment {
	l := r.log
	if l.dev == nil {
		r.err = fmt.Errorf("seglog: LSN %d was only on the log device, which is lost", r.next)
		return nil
	}
	if r.buf == nil {
		if r.buf, r.err = blk.Alloc(max(int(l.super.MaxSegmentBytes), min(readBytes, int(l.super.ChunkBytes)))); r.err != nil {
			return nil
		}
	}
	n := l.padded(int(i.bytes))
	for lsn := r.next + 1; lsn <= l.durable; lsn++ {
		j := l.info(lsn)
		m := int64(j.pos-i.pos) + l.padded(int(j.bytes))
		if m > int64(len(r.buf)) || j.pos%Pos(l.super.ChunkBytes) == 0 || l.RAM(j.pos, int(j.bytes)) != nil {
			break
		}
		n = m
	}
	r.pin, r.state, r.asked, r.from, r.to, r.askedAt = l.Pin(), fetching, i.pos, 0, 0, l.now
	l.DeviceReadBytes += uint64(n)
	r.req = blk.Request{Op: blk.Read, Offset: l.DeviceOffset(i.pos), Length: n, Buf: r.buf[:n], Owner: r}
	l.dev.Submit(&r.req)
	return nil
}

// Complete records that a segment was read.
func (r *Reader) Complete(*blk.Request) {
	r.log.Unpin(r.pin)
	r.state = fetched
	if r.stale {
		r.state, r.stale = idle, false
	}
}

// Err is why Next cannot go on, or nil. Rewind clears it.
func (r *Reader) Err() error { return r.err }

// Position is the LSN after which Next goes on.
func (r *Reader) Position() LSN { return r.next - 1 }

// Kept is the LSN up to which this reader has released.
func (r *Reader) Kept() LSN { return r.kept }

// Rewind makes Next go on after lsn; released segments stay released.
func (r *Reader) Rewind(lsn LSN) {
	r.next = max(lsn, r.kept) + 1
	r.err = nil
	r.drop()
}

// drop forgets a segment that was, or is being, fetched for another position.
func (r *Reader) drop() {
	r.from, r.to = 0, 0
	switch r.state {
	case fetched:
		r.state = idle
	case fetching:
		r.stale = true
	}
}

// Skip makes Next go on after lsn, which may lie ahead, and releases up to it.
func (r *Reader) Skip(lsn LSN) {
	if lsn+1 > r.next {
		r.next = lsn + 1
		r.drop()
	}
	r.Release(lsn)
}

// Release gives up all segments up to lsn, at most those that Next has given.
func (r *Reader) Release(lsn LSN) { r.kept = max(r.kept, min(lsn, r.next-1)) }

// Scan gives visit every retained segment after lsn, before the loop goes on; a segment's Raw is valid
// during the call. bad says that one could not be read and the walk ended there, err that nothing can
// complete any more.
func (l *Log) Scan(name string, lsn LSN, drive blk.Drive, visit func(s *Segment)) (bad, err error) {
	r := l.NewReader(name, lsn)
	for r.Position() < l.sealed {
		if s := r.Next(l.sealed); s != nil {
			visit(s)
			continue
		}
		if bad = r.Err(); bad != nil {
			break
		}
		now, err := drive()
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		l.Kick(now)
	}
	return bad, r.Close()
}

// Close takes the reader away: it holds nothing back any more.
func (r *Reader) Close() error {
	if r.state == fetching {
		return fmt.Errorf("seglog: reader %s closed while it reads", r.Name)
	}
	for i, o := range r.log.readers {
		if o == r {
			r.log.readers = append(r.log.readers[:i], r.log.readers[i+1:]...)
			break
		}
	}
	err := blk.Free(r.buf)
	r.buf = nil
	return err
}
