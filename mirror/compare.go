package mirror

import (
	"errors"

	"github.com/robib-ublk/robib/mirror/wire"
)

// Blocks that the peer may have already are asked for by their hashes before they are sent. That pays
// for a whole disk, which may be a copy, for a sync that was interrupted, some of whose blocks are
// there, and where a bit of the dirty map stands for more than a hash does. What else a map says was
// written since differs: to ask about that would only read it twice.

// ResyncStats count what full and map syncs did, in bytes.
type ResyncStats struct {
	Sent     uint64 // blocks, before they were packed
	Compared uint64 // by hash
	Skipped  uint64 // of them, equal at the peer and not sent
}

const (
	maxAsks   = 16       // blocks that were asked about and not answered
	hashBytes = 64 << 10 // hashed in one batch: clients' requests go between
	missMost  = 16       // blocks that are sent unasked after many that differed altogether
)

// compares are the blocks that the peer is asked about. Loop only.
type compares struct {
	compare bool // this sync asks
	misses  int  // after the newest answer, of a block that differs altogether, so many go unasked
	unasked int  // so many of them are left
	out     [maxAsks]asking
	asked   *asking // the block in hand, while it is hashed
	body    [wire.CompareHead + wire.MaxPieces*wire.HashBytes]byte
}

// asking is one block that the peer is asked about.
type asking struct {
	busy     bool
	sent     bool
	answered bool
	off, n   int64
	differs  wire.Pieces // once answered: what is still to be read and sent
}

// pays reports whether a sync asks; partly: the peer may have some of it already.
func (s *fullSync) pays(partly bool) bool {
	n := s.n
	return n.s.hello.Offered&wire.FeatureHash != 0 && (partly || n.log.Dirty().Unit() > n.o.Sync.Piece)
}

// forget drops what was asked.
func (s *fullSync) forget() {
	s.out, s.misses, s.unasked = [maxAsks]asking{}, 0, 0
}

// pieces is how many hashes a block of n bytes has.
func (s *fullSync) pieces(n int64) int { return wire.PiecesOf(n, s.n.o.Sync.Piece) }

func (s *fullSync) free() *asking {
	for i := range s.out {
		if !s.out[i].busy {
			return &s.out[i]
		}
	}
	return nil
}

// waits reports whether something that was asked about is not settled.
func (s *fullSync) waits() bool {
	for i := range s.out {
		if s.out[i].busy {
			return true
		}
	}
	return false
}

// oldest is the smaller of off and the offset from which something is not settled.
func (s *fullSync) oldest(off int64) int64 {
	if Planted && Plant == "asked-is-done" {
		return off
	}
	for i := range s.out {
		a := &s.out[i]
		if !a.busy {
			continue
		}
		at := a.off
		if k, _, ok := a.differs.Run(); ok {
			at += int64(k) * s.n.o.Sync.Piece
		}
		off = min(off, at)
	}
	return off
}

// asks reports whether the next block is asked about: after some that the peer had nothing of, not
// every one is.
func (s *fullSync) asks() bool {
	if s.unasked > 0 {
		s.unasked--
		return false
	}
	return true
}

// ask begins with a block; hash follows when it is read.
func (s *fullSync) ask(off, n int64) {
	s.asked, s.hashed = s.free(), 0
	*s.asked = asking{busy: true, off: off, n: n}
}

// hash hashes some of the block in hand, and reports whether more is left.
func (s *fullSync) hash() bool {
	size := s.n.o.Sync.Piece
	all := s.pieces(s.req.Length)
	for left := int64(hashBytes); s.hashed < all && left > 0; left -= size {
		at := int64(s.hashed) * size
		h := wire.HashOf(s.req.Buf[at:min(at+size, s.req.Length)])
		copy(s.body[wire.CompareHead+s.hashed*wire.HashBytes:], h[:])
		s.hashed++
	}
	return s.hashed < all
}

// sendHashes asks; false: there is no room.
func (s *fullSync) sendHashes() bool {
	n := s.n
	c := wire.Comparison{Range: wire.Range{ID: uint64(s.done(true)), Offset: s.req.Offset, Length: s.req.Length}, PieceBytes: n.o.Sync.Piece}
	c.Put(s.body[:])
	f := n.frameOf(wire.Compare)
	f.Body = s.body[:wire.CompareHead+s.hashed*wire.HashBytes]
	if !n.s.conn.Send(f) {
		return false
	}
	n.sentData(f, len(f.Body))
	s.asked.sent = true
	n.resync.Compared += uint64(s.req.Length)
	return true
}

// answered takes the peer's word on what differs.
func (s *fullSync) answered(f *wire.Frame) {
	n := s.n
	r, p, err := wire.ParseDiffers(f.Body, n.cache.Info().SizeBytes)
	if err != nil || !s.active {
		n.s.lost(errors.Join(errors.New("unexpected answer to a comparison"), err))
		return
	}
	for i := range s.out {
		a := &s.out[i]
		if !a.sent || a.answered || a.off != r.Offset || a.n != r.Length || !p.Within(s.pieces(a.n)) {
			continue
		}
		s.settle(a, &p)
		return
	}
	n.s.lost(errors.New("an answer to a comparison that nobody asked for"))
}

func (s *fullSync) settle(a *asking, p *wire.Pieces) {
	all, size := s.pieces(a.n), s.n.o.Sync.Piece
	k := p.Count()
	equal := int64(all-k) * size
	if !p.Has(all - 1) {
		equal -= int64(all)*size - a.n // the last piece may be shorter
	}
	s.skipped += equal
	s.n.resync.Skipped += uint64(equal)
	s.left = max(s.left-equal, 0)
	if s.misses = min(2*s.misses+1, missMost); k < all {
		s.misses = 0
	}
	s.unasked = s.misses
	a.answered, a.differs, a.busy = true, *p, k > 0
	s.n.s.frames++ // what differs is read in the next kick, or the end may be due
}

// differing gives a run of bytes that the peer said differ, and takes it from what is to be sent.
func (s *fullSync) differing() (off, k int64) {
	var a *asking
	for i := range s.out {
		if x := &s.out[i]; x.busy && x.answered && (a == nil || x.off < a.off) {
			a = x
		}
	}
	if a == nil {
		return 0, 0
	}
	size := s.n.o.Sync.Piece
	i, j, _ := a.differs.Run()
	a.differs.Drop(i, j)
	if _, _, more := a.differs.Run(); !more {
		a.busy = false
	}
	off = a.off + int64(i)*size
	return off, min(int64(j-i)*size, a.off+a.n-off)
}
