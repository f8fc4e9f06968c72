package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// syncBytes is the size of a full sync's blocks.
const syncBytes = 512 << 10

// fullSync is the primary's side: one pass over the disk, each block at its place in the stream.
// From before a block is read until it is sent, writes over it wait: what is read is the state
// at the newest sealed segment, it is sent after that one, and nothing that changes it goes between.
type fullSync struct {
	n       *Node
	active  bool
	next    int64 // offset of the next block to be read
	buf     []byte
	req     blk.Request
	reading bool
	have    bool       // a block is read and not yet sent
	after   seglog.LSN // the segment after which it has its place
	endSent bool
	sent    int64
	begun   int64
}

// begin starts a full sync at the newest sealed segment: the peer's log goes on after it.
func (s *fullSync) begin() (wire.Point, error) {
	n := s.n
	if s.buf == nil {
		var err error
		if s.buf, err = blk.Alloc(wire.RangeBytes + syncBytes + 4096); err != nil {
			return wire.Point{}, err
		}
	}
	if s.reading {
		return wire.Point{}, errors.New("the last full sync's read has not ended")
	}
	n.log.Update(func(x *seglog.Super) { x.Marks |= seglog.PeerNeedsFullSync })
	at := n.log.Sealed()
	h, _ := n.log.Hash(at)
	n.ship.close()
	n.ship.open(at)
	n.ship.from(at)
	s.active, s.next, s.have, s.endSent, s.sent, s.begun = true, 0, false, false, 0, n.now.Mono
	return wire.Point{LSN: at, Hash: h}, nil
}

// data is where blocks are read to: aligned, with room for the range in front.
func (s *fullSync) data() []byte { return s.buf[4096 : 4096+syncBytes] }

// Complete records that a block was read.
func (s *fullSync) Complete(r *blk.Request) {
	s.reading = false
	s.have = true
}

// kick reads the next block, when the last one is on its way.
func (s *fullSync) kick() {
	n := s.n
	if s.have && !s.reading && s.req.Err != 0 && s.active {
		s.have = false
		n.cache.UnlockRange()
		n.s.lost(fmt.Errorf("full sync: read [%d, +%d): %w", s.req.Offset, s.req.Length, s.req.Err))
		return
	}
	size := n.cache.Info().SizeBytes
	if !s.active || s.reading || s.have || s.next >= size || !n.s.up || !n.pace.may(n.now.Mono) {
		return
	}
	k := min(int64(syncBytes), size-s.next)
	s.after = n.log.Sealed()
	if !(Planted && Plant == "no-lock") {
		n.cache.LockRange(s.next, k)
	}
	s.req = blk.Request{Op: blk.Read, Offset: s.next, Length: k, Buf: s.data()[:k], Owner: s}
	s.reading = true
	n.cache.Submit(&s.req)
}

// due reports whether the block that was read has its place right here: nothing of the log goes
// before it, or a limited or full connection would never come to it.
func (s *fullSync) due() bool { return s.active && s.have && s.n.ship.to >= s.after }

// send sends the block that was read, once everything sealed before it was sent, and the end.
func (s *fullSync) send() {
	n := s.n
	if !s.active || !n.s.up || s.reading {
		return
	}
	switch {
	case s.have && n.ship.to >= s.after:
		if !n.pace.may(n.now.Mono) {
			return
		}
		r := wire.Range{Offset: s.req.Offset, Length: s.req.Length, Zero: isZero(s.req.Buf)}
		f := n.frameOf(wire.Resync)
		f.Body = s.buf[4096-wire.RangeBytes : 4096+s.req.Length]
		if r.Zero {
			f.Body = f.Body[:wire.RangeBytes]
		}
		r.Put(f.Body)
		if !n.sendData(f, wire.PackKey{Kind: f.Kind, A: uint64(s.req.Offset), B: s.after}, wire.RangeBytes) {
			return
		}
		// Only now: a write over the range that went ahead of the block would be undone by it.
		n.cache.UnlockRange()
		s.have = false
		s.next += s.req.Length
		s.sent += s.req.Length
		n.s.frames++ // the next read begins in the next kick, at once
	case !s.have && s.next >= n.cache.Info().SizeBytes && !s.endSent && n.ship.to >= n.log.Sealed():
		f := n.frameOf(wire.ResyncEnd)
		s.endSent = n.s.conn.Send(f)
	}
}

func isZero(b []byte) bool {
	for len(b) >= 64 {
		if le64(b)|le64(b[8:])|le64(b[16:])|le64(b[24:])|le64(b[32:])|le64(b[40:])|le64(b[48:])|le64(b[56:]) != 0 {
			return false
		}
		b = b[64:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// whole is told when the peer's copy is complete and durable.
func (s *fullSync) whole() {
	if !s.active || !s.endSent {
		return
	}
	n := s.n
	s.active = false
	n.clearing = n.log.Update(func(x *seglog.Super) { x.Marks &^= seglog.PeerNeedsFullSync })
	n.event("full sync", "running", "complete", fmt.Sprintf("%d bytes", s.sent))
}

// lost ends a full sync: the next session begins another one.
func (s *fullSync) lost() {
	if s.active {
		s.active, s.endSent = false, false
		s.n.ship.close()
	}
	if !s.reading {
		s.have = false
		s.n.cache.UnlockRange()
	}
}

func (s *fullSync) close() error {
	err := blk.Free(s.buf)
	s.buf = nil
	return err
}
