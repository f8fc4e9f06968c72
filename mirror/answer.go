package mirror

import (
	"fmt"
	"syscall"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// comparison is the secondary's side of a block that it may have already: it is read as it is at
// this place of the stream, log and disk together, hashed piece by piece, and answered.
type comparison struct {
	comparing bool
	stale     bool // of a session that ended: nobody waits for the answer
	gone      bool // its memory is in quarantine
	read      bool // it came back
	piece     int64
	hashed    int
	hashes    [wire.MaxPieces * wire.HashBytes]byte // the primary's
	differs   wire.Pieces
}

// compare begins to read what the primary asks about.
func (x *receiver) compare(f *wire.Frame) {
	n := x.n
	c, err := wire.ParseComparison(f.Body, n.cache.Info().SizeBytes)
	if err == nil && c.Length > syncBytes {
		err = fmt.Errorf("%w: a comparison of %d bytes", wire.ErrBody, c.Length)
	}
	if err != nil {
		n.s.lost(err)
		return
	}
	s, b := x.slot(c.Length)
	if s == nil {
		x.hold(f)
		return
	}
	s.comparing, s.stale, s.gone, s.read, s.piece, s.hashed, s.differs = true, false, false, false, c.PieceBytes, 0, wire.Pieces{}
	copy(s.hashes[:], c.Hashes)
	s.Op, s.Offset, s.Length, s.Buf, s.Owner = blk.Read, c.Offset, c.Length, b, x
	x.order = append(x.order, s)
	x.came(&c.Range)
	if Planted && Plant == "hash-other-place" {
		s.Offset = 0
		n.cache.Submit(&s.Request)
		s.Offset = c.Offset
		return
	}
	n.cache.Submit(&s.Request)
}

// wasRead records that a block which is compared came back.
func (x *receiver) wasRead(s *resyncSlot) {
	if s.Replaced(x.slotMem(s)[x.head:]) {
		// The disk hangs and may still write to the slot's memory: the slot is not used again.
		s.gone, s.Err = true, syscall.EIO
	}
	s.read = true
	x.reads++
	if s.stale {
		s.busy = s.gone
	}
}

// hash hashes some of what came back, oldest first; wake says whether more is left.
func (x *receiver) hash() (wake int64) {
	left := int64(hashBytes)
	for _, s := range x.order {
		if !s.read {
			continue
		}
		for all := wire.PiecesOf(s.Length, s.piece); s.hashed < all; s.hashed++ {
			if left <= 0 {
				return x.n.now.Mono
			}
			left -= s.piece
			at := int64(s.hashed) * s.piece
			// What cannot be read differs: the primary's block takes its place.
			if s.Err != 0 || wire.HashOf(s.Buf[at:min(at+s.piece, s.Length)]) != wire.Hash(s.hashes[s.hashed*wire.HashBytes:][:wire.HashBytes]) {
				s.differs.Add(s.hashed)
			}
		}
	}
	return blk.Never
}

// answer tells the primary what differs.
func (x *receiver) answer() {
	for len(x.order) > 0 {
		s := x.order[0]
		if !s.read || s.hashed < wire.PiecesOf(s.Length, s.piece) {
			return
		}
		var b [wire.DiffersBytes]byte
		wire.PutDiffers(b[:], wire.Range{Offset: s.Offset, Length: s.Length}, &s.differs)
		f := x.n.frameOf(wire.Differs)
		f.Body = b[:]
		if !x.n.s.conn.Send(f) {
			return
		}
		s.busy = s.gone
		x.order = x.order[:copy(x.order, x.order[1:])]
	}
}

// forget drops the session's comparisons; reads under way end by themselves.
func (x *receiver) forget() {
	for _, s := range x.order {
		if s.stale = true; s.read {
			s.busy = s.gone
		}
	}
	x.order = x.order[:0]
}

// fingerprint has the log know what the disk's superblock areas hold: of blocks that were equal it does not.
func (x *receiver) fingerprint() error {
	n := x.n
	if n.cache.Fingerprinted() {
		return nil
	}
	if err := x.quiet(); err != nil {
		return err
	}
	return n.cache.Refingerprint(n.o.Drive)
}
