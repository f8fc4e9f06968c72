package wire

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/bits"
)

// HashBytes is the size of a piece's hash: SHA-256, its first 128 bits.
const HashBytes = 16

// MaxPieces bounds the pieces of a Comparison.
const MaxPieces = 512

// Hash is the hash of one piece.
type Hash [HashBytes]byte

// HashOf hashes a piece. Pieces of zeros, of which new disks are full, are looked at and not hashed.
func HashOf(b []byte) Hash {
	if len(b) == PieceBytes && IsZero(b) {
		return zeroHash
	}
	return hash(b)
}

// PieceBytes is the length of a piece unless somebody chose another.
const PieceBytes = 16 << 10

var zeroHash = hash(make([]byte, PieceBytes))

func hash(b []byte) Hash {
	s := sha256.Sum256(b)
	return Hash(s[:HashBytes])
}

// IsZero reports whether b holds nothing but zeros.
func IsZero(b []byte) bool {
	for ; len(b) > len(zeros); b = b[len(zeros):] {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Pieces is a set of a range's pieces.
type Pieces [MaxPieces / 64]uint64

// Add puts piece i into the set.
func (p *Pieces) Add(i int) { p[i/64] |= 1 << (i % 64) }

// Has reports whether piece i is in the set.
func (p *Pieces) Has(i int) bool { return p[i/64]&(1<<(i%64)) != 0 }

// Drop takes pieces i to j-1 out of it.
func (p *Pieces) Drop(i, j int) {
	for ; i < j; i++ {
		p[i/64] &^= 1 << (i % 64)
	}
}

// Run is the first run of pieces in the set: i to j-1; ok is false when it is empty.
func (p *Pieces) Run() (i, j int, ok bool) {
	for w, x := range p {
		if x == 0 {
			continue
		}
		i = w*64 + bits.TrailingZeros64(x)
		for j = i + 1; j < MaxPieces && p.Has(j); j++ {
		}
		return i, j, true
	}
	return 0, 0, false
}

// Count is how many pieces it has.
func (p *Pieces) Count() (n int) {
	for _, x := range p {
		n += bits.OnesCount64(x)
	}
	return n
}

// Comparison is a range cut into pieces, each with its hash; the last piece may be shorter. Body of a
// Compare frame, little-endian:
//
//	0  the range (RangeBytes)    32  bytes of a piece (u32)    36  reserved (u32)    40  hashes
type Comparison struct {
	Range
	PieceBytes int64
	Hashes     []byte // HashBytes each, in order; the frame's memory
}

// CompareHead is the size of what precedes the hashes.
const CompareHead = RangeBytes + 8

// PiecesOf is how many pieces of size bytes a range of length has.
func PiecesOf(length, size int64) int { return int((length + size - 1) / size) }

// Put encodes what precedes the hashes into b.
func (c *Comparison) Put(b []byte) {
	c.Range.Put(b)
	le.PutUint32(b[RangeBytes:], uint32(c.PieceBytes))
	le.PutUint32(b[RangeBytes+4:], 0)
}

// ParseComparison decodes a Compare frame's body for a disk of size bytes.
func ParseComparison(b []byte, size int64) (c Comparison, err error) {
	if len(b) < CompareHead {
		return c, fmt.Errorf("%w: comparison of %d bytes", ErrBody, len(b))
	}
	if c.Range, _, err = ParseRange(b[:RangeBytes], size); err != nil {
		return c, err
	}
	c.PieceBytes, c.Hashes = int64(le.Uint32(b[RangeBytes:])), b[CompareHead:]
	if c.PieceBytes < 512 || c.PieceBytes%512 != 0 || c.Length > c.PieceBytes*MaxPieces || len(c.Hashes) != HashBytes*PiecesOf(c.Length, c.PieceBytes) {
		return c, fmt.Errorf("%w: %d bytes of hashes for %d in pieces of %d", ErrBody, len(c.Hashes), c.Length, c.PieceBytes)
	}
	return c, nil
}

// DiffersBytes is the size of a Differs frame's body: the range, and a bit for each piece, first one
// lowest, set where it differs.
const DiffersBytes = RangeBytes + MaxPieces/8

// PutDiffers encodes the answer to a comparison into b, DiffersBytes long.
func PutDiffers(b []byte, r Range, p *Pieces) {
	r.Put(b)
	for i, x := range p {
		le.PutUint64(b[RangeBytes+8*i:], x)
	}
}

// ParseDiffers decodes an answer; whether its pieces are in the range only the asker knows.
func ParseDiffers(b []byte, size int64) (r Range, p Pieces, err error) {
	if len(b) != DiffersBytes {
		return r, p, fmt.Errorf("%w: answer of %d bytes", ErrBody, len(b))
	}
	if r, _, err = ParseRange(b[:RangeBytes], size); err != nil {
		return r, p, err
	}
	for i := range p {
		p[i] = le.Uint64(b[RangeBytes+8*i:])
	}
	return r, p, nil
}

// Within reports whether the set has none but the first n pieces.
func (p *Pieces) Within(n int) bool {
	for i, x := range p {
		if k := n - 64*i; x != 0 && (k <= 0 || k < 64 && x>>k != 0) {
			return false
		}
	}
	return true
}
