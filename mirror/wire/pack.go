package wire

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Features that a hello offers: what this side can take.
const (
	FeatureElide uint64 = 1 << 0 // blocks of zeros left out of a data frame
	FeatureZstd  uint64 = 1 << 1 // data frames compressed with Zstandard (RFC 8878)
	FeatureSum   uint64 = 1 << 2 // segments without a checksum of the frame's
	FeatureLag   uint64 = 1 << 3 // heartbeats with a Backlog
	FeatureSwap  uint64 = 1 << 4 // FactSwap; offered by a primary that can hand its role over
	FeatureHash  uint64 = 1 << 5 // Compare frames; and the ID of a Resync's range, see Range
	FeatureStage uint64 = 1 << 6 // a sync may be staged: a secondary's StageRoom and Staging, a primary's DecisionMsg.Stage

	FeatureControl uint64 = 1 << 12 // a second connection for heartbeats: it begins with a hello each way, with Session and Connection 1

	Features = FeatureElide | FeatureZstd | FeatureSum | FeatureLag | FeatureHash | FeatureStage | FeatureControl
)

// FlagOwnSum of a Segment frame: its body's only checksums are the segment's own, which whoever takes
// it into a log checks.
const FlagOwnSum uint8 = 1 << 2

// Flags of data frames: Segment, Resync and ReadReply. With either of them the body is packed:
//
//	0  bytes of the body it stands for (u32)
//	4  where the first block begins in that (u32)
//	8  FlagElided: a bit for each whole block from there on, set where the block is all zeros and
//	   left out; padded to a byte
//	.. what is left, one after the other; FlagZstd: as one Zstandard frame
//
// The frame's CRC, if it has one, is over the packed body; a segment's own checksums, and Zstandard's, prove what
// comes out of it.
const (
	FlagElided uint8 = 1 << 0
	FlagZstd   uint8 = 1 << 1

	flagsPacked = FlagElided | FlagZstd
)

// ElideBytes is the size of the blocks that are left out.
const ElideBytes = 4096

const (
	packHead  = 8
	mapBytes  = MaxBody / ElideBytes / 8
	zstdFloor = 256 // bytes below which a body is not worth a try
	zstdSlack = 64 << 10

	// After failsInRow bodies that did not shrink by an eighth the next pauseFirst ones go as
	// they are, then twice as many after each further failure, up to pauseMost.
	failsInRow = 4
	pauseFirst = 8
	pauseMost  = 256
)

var zeros [ElideBytes]byte

// IsData reports whether a kind of frame carries the volume's data, and so may be packed.
func (k Kind) IsData() bool { return k == Segment || k == Resync || k == ReadReply }

// PackKey names a body within a session, so that one for which a connection had no room is not
// packed again.
type PackKey struct {
	Kind Kind
	A, B uint64
}

// PackStats counts what a Packer did.
type PackStats struct {
	ElidedBytes uint64 // zeros left out
	Tried       uint64 // bodies given to the compressor
	Shrunk      uint64 // of them, those that it made smaller by an eighth or more
	Skipped     uint64 // bodies not given to it after too many that did not shrink
}

// Packer makes bodies smaller. The zero value elides zeros and compresses nothing.
type Packer struct {
	Stats PackStats

	peer   uint64 // features of the peer's hello; nothing else is used
	zstd   bool
	enc    *zstd.Encoder
	elided []byte
	out    []byte

	key   PackKey
	flags uint8
	body  []byte
	kept  bool // key, flags and body are the newest result

	fails, pause, skip int
}

// Begin starts a session with a peer that offers features.
func (p *Packer) Begin(features uint64) { p.peer, p.kept = features, false }

// SetZstd turns compression on or off.
func (p *Packer) SetZstd(on bool) error {
	if on && p.enc == nil {
		// One body at a time and nothing of its own in the background: EncodeAll runs on the caller.
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(MaxBody/2), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
		if err != nil {
			return fmt.Errorf("wire: zstd: %w", err)
		}
		p.enc, p.out = enc, make([]byte, 0, packHead+mapBytes+MaxBody+zstdSlack)
	}
	p.zstd = on
	p.fails, p.pause, p.skip = 0, 0, 0
	return nil
}

// Zstd reports whether compression is turned on.
func (p *Packer) Zstd() bool { return p.zstd }

// Packs reports whether bodies are compressed: it is turned on, and the peer can take it.
func (p *Packer) Packs() bool { return p.zstd && p.peer&FeatureZstd != 0 }

// OwnSums reports whether segments may go with FlagOwnSum.
func (p *Packer) OwnSums() bool { return p.peer&FeatureSum != 0 }

// Pack replaces f's body and flags when a smaller form of it is worth its while. Blocks are looked
// for from first on. The body is valid until the next Pack.
func (p *Packer) Pack(f *Frame, key PackKey, first int) {
	if len(f.Body) > MaxBody || first > len(f.Body) {
		return // whoever sends that is told
	}
	if p.kept && p.key == key {
		if p.flags != 0 {
			f.Flags, f.Body = f.Flags|p.flags, p.body
		}
		return
	}
	flags, body := uint8(0), f.Body
	head, rest := 0, f.Body // of body
	if p.peer&FeatureElide != 0 {
		if b, n := p.elide(f.Body, first); b != nil {
			flags, body, head = FlagElided, b, n
			rest = b[n:]
		}
	}
	if p.Packs() && len(rest) >= zstdFloor {
		if z := p.compress(body[:head], rest, len(f.Body), first); z != nil {
			flags, body = flags|FlagZstd, z
		}
	}
	p.kept, p.key, p.flags, p.body = true, key, flags, body
	f.Flags, f.Body = f.Flags|flags, body
}

// elide gives b packed without its blocks of zeros, and the size of its head, or nil when there are none.
func (p *Packer) elide(b []byte, first int) (packed []byte, head int) {
	n := (len(b) - first) / ElideBytes
	from := 0 // what is not copied yet
	var bits []byte
	for i := range n {
		at := first + i*ElideBytes
		if !IsZero(b[at : at+ElideBytes]) {
			continue
		}
		if packed == nil {
			if p.elided == nil {
				p.elided = make([]byte, packHead+mapBytes+MaxBody)
			}
			head = packHead + (n+7)/8
			packed = p.elided[:head]
			putPack(packed, len(b), first)
			bits = packed[packHead:]
			clear(bits)
		}
		bits[i/8] |= 1 << (i % 8)
		packed = append(packed, b[from:at]...)
		from = at + ElideBytes
		p.Stats.ElidedBytes += ElideBytes
	}
	if packed != nil {
		packed = append(packed, b[from:]...)
	}
	return packed, head
}

func putPack(b []byte, size, first int) {
	le.PutUint32(b, uint32(size))
	le.PutUint32(b[4:], uint32(first))
}

// compress gives head and rest with rest compressed, or nil when that is not worth it, or was
// not lately.
func (p *Packer) compress(head, rest []byte, size, first int) []byte {
	if p.skip > 0 {
		p.skip--
		p.Stats.Skipped++
		return nil
	}
	if p.out = append(p.out[:0], head...); len(head) == 0 {
		p.out = p.out[:packHead]
		putPack(p.out, size, first)
	}
	n := len(p.out)
	p.out = p.enc.EncodeAll(rest, p.out)
	p.Stats.Tried++
	if len(p.out)-n+len(rest)/8 > len(rest) {
		if p.fails++; p.fails >= failsInRow {
			p.pause = min(max(2*p.pause, pauseFirst), pauseMost)
			p.skip = p.pause
		}
		return nil
	}
	p.fails, p.pause = 0, 0
	p.Stats.Shrunk++
	return p.out
}
