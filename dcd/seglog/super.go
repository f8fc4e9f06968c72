package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Superblock format, version 1, little-endian: two slots of 8192 bytes at 0 and 8192; the newer
// good one counts. Fields in the order of Super, then, at 4096, the fingerprint.
const (
	superMagic   = "ROBIBLOG"
	superVersion = 1
	slotBytes    = 8192
	printOffset  = 4096
	idBytes      = 64

	// FingerprintSectors is how many sectors have a place in the fingerprint: the first and
	// the last 128 KiB of the data disk, where superblocks and partition tables are.
	FingerprintSectors = 512
)

// Zeroes is the incompat bit of a log that may hold Discard and WriteZeroes records.
const Zeroes = 1

// Bypasses is the incompat bit of a log that may hold Bypass records.
const Bypasses = 2

// Refills is the incompat bit of a log whose data disk is being filled: see NeedsRefill.
const Refills = 4

// Stages is the incompat bit of a log that holds a stage, or once dropped one for a new term.
const Stages = 8

// Merges is the incompat bit of a log of a secondary that appends several segments at once although each declares the
// one before durable, which is true at the primary only: see Log.Merge.
const Merges = 16

// Feature bits of this version, by name. An unknown incompat bit is refused, an unknown
// ro-compat bit is refused for writing, an unknown compat bit is ignored.
const (
	knownROCompat = 0
	knownIncompat = Zeroes | Bypasses | Refills | Stages | Merges
)

// Marks are facts that must survive: each is durable before anything relies on it.
type Marks uint32

// Marks of a superblock.
const (
	HasPeer           Marks = 1 << iota // the volume has a second machine
	Degraded                            // writes were acknowledged without a session
	Ahead                               // an LSN was acknowledged that was not remote durable
	PeerNeedsRefill                     // the peer lost its disk or log and relies on this copy
	PeerNeedsFullSync                   // what the peer lacks is not in the log any more
	Inconsistent                        // this copy is partly overwritten: promote refuses
	Ended                               // del ended the chain; the data disk holds everything
	DirtyMap                            // what the peer lacks beside the log is in the dirty map
	Demoted                             // a primary that became a secondary: nobody but itself declared its newest segments durable
	NeedsRefill                         // the data disk here missed writes that this log does not have any more: see Refilled
	AssumedClean                        // the user says that a new peer's disk holds what this one held before the first segment
	Staging                             // the log holds a generation that is not visible: see StageBytes
)

var markNames = []string{"has peer", "degraded", "ahead", "peer needs refill", "peer needs full sync", "inconsistent", "ended", "dirty map", "demoted", "needs refill", "assumed clean", "staging"}

func (m Marks) String() string {
	var s []string
	for i, n := range markNames {
		if m&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	if s == nil {
		return "none"
	}
	return strings.Join(s, ", ")
}

// Point is where the next segment of a chain is, or will be.
type Point struct {
	Pos      Pos
	LSN      LSN
	PrevHash uint64
}

// Super is what a superblock says.
type Super struct {
	Seq                        uint64
	Compat, ROCompat, Incompat uint64
	Volume, Log                UUID
	Term                       Term
	DiskBytes                  int64
	DiskBlock, BlockBytes      int32 // logical block of the data disk; packing unit of this log
	RingOffset, RingBytes      int64
	ChunkBytes                 int64 // no segment crosses a multiple of it; also the size of the RAM ring
	MaxSegmentBytes            int64
	Start                      Point // recovery start: nothing at or after it is ever reused
	Marks                      Marks
	Declared                   LSN // all up to it are known to be durable
	Base                       LSN // of the dirty map: the newest segment given up without a mark
	CheckpointOffset           int64
	CheckpointBytes            int64
	DirtyOffset, DirtyBytes    int64
	DiskIdentity               string // at most 64 bytes
	SumPos                     Pos    // of the first summary page that recovery needs, in the checkpoint area
	DirtyEpoch                 uint64 // pages of the dirty map with another one say nothing
	SumEpoch                   uint64 // pages of another epoch name segments that were cut
	Refilled                   int64  // with NeedsRefill: bytes of a new data disk, from its beginning, that are good; negative: no refill has begun

	// A stage lies in front of Start: blocks that belong under the segments from Start on. With the mark
	// Staging both are a generation that is not visible, and the copy is the data disk alone, at Visible;
	// without it they are the copy, and the blocks are being brought to the data disk.
	Visible     Point  // LSN and PrevHash: where the chain goes on if the generation is dropped
	StagePos    Pos    // the stretch begins here, and does not cross the ring's end
	StageBytes  int64  // 0: there is none
	StageID     uint64 // of its blocks; random
	StageBlocks uint64 // so many are known to be durable
	MinTerm     uint64 // segments of an older term behind the newest one are of a chain that was dropped

	// Fingerprint holds, for each sector of the disk's first and last 128 KiB, a hash of what
	// it held when everything before Start was destaged; 0: not known.
	Fingerprint [FingerprintSectors]uint64
}

// Errors of Probe and Open.
var (
	ErrBlank     = errors.New("the device is blank")
	ErrBadSuper  = errors.New("both superblocks are damaged")
	ErrTooSmall  = errors.New("the device is too small for a log")
	ErrReadError = errors.New("the log device cannot be read")
)

// ForeignError says that the device holds something that is not a log.
type ForeignError struct{ Begins []byte }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("the device holds something else: it begins with % x", e.Begins)
}

// VersionError says that the log was made by a version this one does not know.
type VersionError struct{ Found uint16 }

func (e *VersionError) Error() string {
	what := "a newer version"
	if e.Found < superVersion {
		what = "an older version"
	}
	return fmt.Sprintf("the log has format version %d, made by %s of robib-ublk; this one knows version %d", e.Found, what, superVersion)
}

// FeatureError says that the log uses features this version does not know.
type FeatureError struct {
	Word string // "incompat" or "ro-compat"
	Bits uint64
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("the log uses unknown %s feature bits %#x: a newer robib-ublk made it", e.Word, e.Bits)
}

func encodeSuper(b []byte, s *Super) {
	clear(b[:slotBytes])
	copy(b, superMagic)
	le.PutUint16(b[8:], superVersion)
	p := b[16:]
	u64 := func(v uint64) { le.PutUint64(p, v); p = p[8:] }
	for _, v := range []uint64{s.Seq, s.Compat, s.ROCompat, s.Incompat} {
		u64(v)
	}
	copy(p, s.Volume[:])
	copy(p[16:], s.Log[:])
	p = p[32:]
	for _, v := range []uint64{s.Term.Number, s.Term.ID, uint64(s.DiskBytes), uint64(s.DiskBlock), uint64(s.BlockBytes), uint64(s.RingOffset), uint64(s.RingBytes),
		uint64(s.ChunkBytes), uint64(s.MaxSegmentBytes), s.Start.Pos, s.Start.LSN, s.Start.PrevHash, uint64(s.Marks), s.Declared, s.Base,
		uint64(s.CheckpointOffset), uint64(s.CheckpointBytes), uint64(s.DirtyOffset), uint64(s.DirtyBytes)} {
		u64(v)
	}
	copy(p[:idBytes], s.DiskIdentity)
	le.PutUint64(p[idBytes:], s.SumPos)
	le.PutUint64(p[idBytes+8:], s.SumEpoch)
	le.PutUint64(p[idBytes+16:], s.DirtyEpoch)
	p = p[idBytes+24:]
	for _, v := range []uint64{uint64(s.Refilled), s.Visible.LSN, s.Visible.PrevHash, s.StagePos, uint64(s.StageBytes), s.StageID, s.StageBlocks, s.MinTerm} {
		u64(v)
	}
	for i, v := range s.Fingerprint {
		le.PutUint64(b[printOffset+8*i:], v)
	}
	le.PutUint32(b[12:], crc32.Checksum(b[:slotBytes], crcTab))
}

// decodeSuper decodes one slot; it trusts nothing in it.
func decodeSuper(b []byte) (*Super, error) {
	if string(b[:8]) != superMagic {
		if len(bytes.Trim(b, "\x00")) == 0 {
			return nil, ErrBlank
		}
		return nil, &ForeignError{append([]byte(nil), b[:16]...)}
	}
	// A newer version may place its checksum elsewhere: the version is looked at first.
	if v := le.Uint16(b[8:]); v != superVersion {
		return nil, &VersionError{v}
	}
	if sumAround(b[:slotBytes], 12) != le.Uint32(b[12:]) {
		return nil, ErrBadSuper
	}
	s := new(Super)
	p := b[16:]
	u64 := func() uint64 { v := le.Uint64(p); p = p[8:]; return v }
	i64 := func() int64 { return int64(u64()) }
	s.Seq, s.Compat, s.ROCompat, s.Incompat = u64(), u64(), u64(), u64()
	copy(s.Volume[:], p)
	copy(s.Log[:], p[16:])
	p = p[32:]
	s.Term = Term{u64(), u64()}
	s.DiskBytes, s.DiskBlock, s.BlockBytes = i64(), int32(u64()), int32(u64())
	s.RingOffset, s.RingBytes, s.ChunkBytes, s.MaxSegmentBytes = i64(), i64(), i64(), i64()
	s.Start = Point{u64(), u64(), u64()}
	s.Marks, s.Declared, s.Base = Marks(u64()), u64(), u64()
	s.CheckpointOffset, s.CheckpointBytes, s.DirtyOffset, s.DirtyBytes = i64(), i64(), i64(), i64()
	s.SumPos, s.SumEpoch, s.DirtyEpoch = le.Uint64(p[idBytes:]), le.Uint64(p[idBytes+8:]), le.Uint64(p[idBytes+16:])
	s.DiskIdentity = string(bytes.TrimRight(p[:idBytes], "\x00"))
	p = p[idBytes+24:]
	s.Refilled = i64()
	s.Visible.LSN, s.Visible.PrevHash = u64(), u64()
	s.StagePos, s.StageBytes, s.StageID, s.StageBlocks, s.MinTerm = u64(), i64(), u64(), u64(), u64()
	for i := range s.Fingerprint {
		s.Fingerprint[i] = le.Uint64(b[printOffset+8*i:])
	}
	if bits := s.Incompat &^ knownIncompat; bits != 0 {
		return nil, &FeatureError{"incompat", bits}
	}
	if bits := s.ROCompat &^ knownROCompat; bits != 0 {
		return nil, &FeatureError{"ro-compat", bits}
	}
	return s, s.sane()
}

// sane refuses sizes that would lead out of bounds although the checksum is good.
func (s *Super) sane() error {
	ok := s.BlockBytes >= sectorBytes && s.BlockBytes <= 1<<16 && s.BlockBytes&(s.BlockBytes-1) == 0 &&
		s.ChunkBytes > 0 && s.ChunkBytes <= 1<<36 && s.RingBytes > 0 && s.RingBytes <= 1<<41 && s.RingBytes%s.ChunkBytes == 0 && s.ChunkBytes%int64(s.BlockBytes) == 0 &&
		s.RingOffset >= 2*slotBytes && s.RingOffset <= 1<<44 && s.MaxSegmentBytes >= 1024 && s.MaxSegmentBytes*2 <= s.ChunkBytes && s.DiskBytes > 0 && s.DiskBytes <= 1<<60 && s.Start.LSN > 0 && s.stageSane()
	if !ok {
		return fmt.Errorf("%w: impossible sizes", ErrBadSuper)
	}
	return nil
}

// Probe reads the superblocks of a device and changes nothing.
func Probe(dev blk.Device, drive blk.Drive) (Super, error) {
	s, _, err := probe(dev, drive)
	if err != nil {
		return Super{}, err
	}
	return *s, nil
}

// SuperBytes is the size of both superblocks, at the beginning of a log.
const SuperBytes = 2 * slotBytes

// DecodeSupers decodes the first SuperBytes of a log.
func DecodeSupers(b []byte) (Super, error) {
	s, _, err := newer(b)
	if err != nil {
		return Super{}, err
	}
	return *s, nil
}

// probe picks the newer good slot; damaged says that the other one is not good.
func probe(dev blk.Device, drive blk.Drive) (best *Super, damaged bool, err error) {
	if dev.Info().SizeBytes < 2*slotBytes {
		return nil, false, ErrTooSmall
	}
	buf, err := blk.Alloc(2 * slotBytes)
	if err != nil {
		return nil, false, err
	}
	defer blk.Free(buf)
	if err := blk.Do(dev, &blk.Request{Op: blk.Read, Length: 2 * slotBytes, Buf: buf}, drive); err != nil {
		return nil, false, fmt.Errorf("%w: superblocks: %w", ErrReadError, err)
	}
	return newer(buf)
}

func newer(buf []byte) (best *Super, damaged bool, err error) {
	a, ea := decodeSuper(buf[:slotBytes])
	b, eb := decodeSuper(buf[slotBytes:SuperBytes])
	switch {
	case ea == nil && eb == nil:
		if b.Seq > a.Seq {
			a = b
		}
		return a, false, nil
	case ea == nil || eb == nil:
		// The other slot is torn, or was never written; a newer version or an unknown
		// feature in it counts all the same.
		if e := errors.Join(ea, eb); isNewer(e) {
			return nil, false, e
		}
		if ea != nil {
			a = b
		}
		return a, true, nil
	case isNewer(eb):
		return nil, false, eb
	}
	if errors.Is(ea, ErrBlank) {
		// Blank means blank altogether.
		return nil, false, eb
	}
	return nil, false, ea
}

func isNewer(err error) bool {
	var v *VersionError
	var f *FeatureError
	return errors.As(err, &v) || errors.As(err, &f)
}
