package dcd

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// mender writes what the data disk could not read anew, with what the peer gave in its place: a disk puts a
// sector that it cannot read elsewhere when that is written. One range at a time; what comes meanwhile is left to
// its next read.
type mender struct {
	c       *Cache
	buf     []byte
	req     blk.Request
	cleared seglog.LSN // what the data disk held when it could not be read
	asked   bool
	busy    bool
}

// take is told that the peer has served r's bytes, which the data disk could not, when it held everything up to cleared.
func (m *mender) take(r *blk.Request, cleared seglog.LSN) {
	c := m.c
	if m.asked || m.busy || !m.may() || c.covered(r.Offset, r.Length) {
		return
	}
	if int64(len(m.buf)) < r.Length {
		b, err := blk.Alloc(int(r.Length))
		if err != nil || blk.Free(m.buf) != nil {
			return
		}
		m.buf = b
	}
	copy(m.buf, r.Buf[:r.Length])
	m.req = blk.Request{Op: blk.Write, Offset: r.Offset, Length: r.Length, Buf: m.buf[:r.Length], Owner: m}
	m.cleared, m.asked = cleared, true
}

// may reports whether there is a data disk to be mended.
func (m *mender) may() bool { return m.c.data != nil && m.c.dataErr == nil && !m.c.remote }

// covered reports whether the log has anything over a range. What the peer gives of it may then be newer than
// what the data disk may hold.
func (c *Cache) covered(off, n int64) bool {
	for b := off / BlockBytes; b*BlockBytes < off+n; b++ {
		if c.idx.first(uint32(b)) >= 0 {
			return true
		}
	}
	for at := off; at < off+n; {
		k, zero := c.zeros.span(at, off+n)
		if zero {
			return true
		}
		at += k
	}
	return false
}

// kick writes what is asked for while no destage is under way, and only if none has been since: that may have brought something newer.
func (m *mender) kick() {
	c := m.c
	if m.busy || c.d.phase != resting || c.b.pending() {
		return
	}
	m.asked = false
	if m.busy = c.cleared == m.cleared && m.may(); m.busy {
		c.data.Submit(&m.req)
	}
}

// Complete records the end of the write.
func (m *mender) Complete(r *blk.Request) {
	m.busy = false
	if r.Err != 0 {
		m.c.dataFailed(fmt.Errorf("the data disk could not be read at byte %d, nor written: %w", r.Offset, r.Err))
		return
	}
	m.c.count.Mended++
}
