package seglog

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// LSN numbers segments from 1; it is the order of everything.
type LSN = uint64

// Pos is a virtual byte position in the ring: it only grows. The device offset is
// RingOffset + Pos mod RingBytes.
type Pos = uint64

// UUID is 16 random bytes.
type UUID [16]byte

func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Term is one reign of a primary: its number orders, its random id tells two of one number apart.
type Term struct{ Number, ID uint64 }

// Kind is what a record does.
type Kind uint8

// Record kinds. Discard and WriteZeroes have no payload and make their range read as zeros; a log
// that may hold them has the feature bit Zeroes. Bypass, without payload too, says that the data disk had
// its range durably before the record was made, and that older records of it count no more: feature bit
// Bypasses. Mark is reserved: this version does not write it.
const (
	Data        Kind = 1
	Discard     Kind = 2
	WriteZeroes Kind = 3
	Bypass      Kind = 4
	Mark        Kind = 5
)

// KeepSpace is the record flag of a WriteZeroes that must not give space back.
const KeepSpace = 1

// Segment format, version 1, little-endian. A segment is a header, padded to the log's block,
// then the payloads of its records in order, then padding to the block.
//
//	  0  magic "SEG1"          8  LSN                    40  volume UUID (16)
//	  4  CRC32C of the header  16  bytes, all (u32)       56  term number
//	     (this field as 0)     20  records (u16)          64  term id
//	                           22  header / 512 (u16)     72  incarnation
//	                           24  durable-through LSN    80  hash of the previous header
//	                           32  wall clock, ns         88  flags, reserved (zeros to 128)
//	128  records of 32 bytes:
//	  0  sector (u64)   8  length, bytes (u32)   12  disk (u16)   14  kind (u8)   15  flags (u8)
//	 16  CRC32C of the payload (u32)   20  payload offset in the segment / 512 (u32)   24  reserved
const (
	segMagic    = 0x31474553 // "SEG1"
	fixedBytes  = 128
	recordBytes = 32
	maxRecords  = 1 << 15
	sectorBytes = 512
)

var (
	le     = binary.LittleEndian
	crcTab = crc32.MakeTable(crc32.Castagnoli)
)

// Errors of a segment that is not what it should be.
var (
	ErrFull    = errors.New("seglog: no room now")
	ErrOrder   = errors.New("seglog: not the next segment")
	ErrChain   = errors.New("seglog: the segment belongs to another history")
	ErrCorrupt = errors.New("seglog: corrupt segment")
	ErrVolume  = errors.New("seglog: the segment belongs to another volume")
)

// Segment is one sealed segment as a reader sees it.
type Segment struct {
	LSN         LSN
	Pos         Pos
	Bytes       int // as sent and hashed: header, payload and padding
	HeaderBytes int
	Records     int
	Term        Term
	Incarnation uint64
	Durable     LSN // all up to it were durable at the primary when this one was sealed
	Wall        int64
	Hash        uint64 // of this header
	PrevHash    uint64 // of the one before
	Volume      UUID
	Raw         []byte // Bytes long; valid as long as the giver says; nil where only a summary was read

	list []Record // of a segment without Raw
}

// Record is one write within a segment.
type Record struct {
	Kind   Kind
	Flags  uint8
	Disk   uint16
	Offset int64 // on the data disk, bytes
	Length int64 // bytes
	At     Pos   // where the payload lies
	CRC    uint32
	off    uint32 // payload's offset in the segment
}

// Record decodes record i.
func (s *Segment) Record(i int) Record {
	if s.Raw == nil {
		return s.list[i]
	}
	b := s.Raw[fixedBytes+i*recordBytes:][:recordBytes]
	r := Record{Offset: int64(le.Uint64(b)) * sectorBytes, Length: int64(le.Uint32(b[8:])), Disk: le.Uint16(b[12:]), Kind: Kind(b[14]), Flags: b[15],
		CRC: le.Uint32(b[16:]), off: le.Uint32(b[20:]) * sectorBytes}
	r.At = s.Pos + Pos(r.off)
	return r
}

// Payload gives record r's bytes; nil for one that has none, and where only a summary was read.
func (s *Segment) Payload(r Record) []byte {
	if r.Kind != Data || s.Raw == nil {
		return nil
	}
	return s.Raw[r.off : int64(r.off)+r.Length]
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// headerSize is how much the header of a segment with n records takes on a log of that block.
func headerSize(n, block int) int { return roundUp(fixedBytes+n*recordBytes, block) }

// HeaderBytes is how much of the log device the header of a segment with so many records takes, at least.
func (l *Log) HeaderBytes(records int) int { return headerSize(records, int(l.super.BlockBytes)) }

func putRecord(b []byte, k Kind, flags uint8, off, length int64, crc uint32, at int) {
	le.PutUint64(b, uint64(off)/sectorBytes)
	le.PutUint32(b[8:], uint32(length))
	le.PutUint16(b[12:], 0)
	b[14], b[15] = byte(k), flags
	le.PutUint32(b[16:], crc)
	le.PutUint32(b[20:], uint32(at/sectorBytes))
	le.PutUint64(b[24:], 0)
}

// putHeader fills the fixed part and the checksum of raw, whose records are there already, and
// gives the header's hash.
func putHeader(s *Segment) uint64 {
	b := s.Raw
	clear(b[:fixedBytes])
	le.PutUint32(b, segMagic)
	le.PutUint64(b[8:], s.LSN)
	le.PutUint32(b[16:], uint32(s.Bytes))
	le.PutUint16(b[20:], uint16(s.Records))
	le.PutUint16(b[22:], uint16(s.HeaderBytes/sectorBytes))
	le.PutUint64(b[24:], s.Durable)
	le.PutUint64(b[32:], uint64(s.Wall))
	copy(b[40:56], s.Volume[:])
	le.PutUint64(b[56:], s.Term.Number)
	le.PutUint64(b[64:], s.Term.ID)
	le.PutUint64(b[72:], s.Incarnation)
	le.PutUint64(b[80:], s.PrevHash)
	h := b[:fixedBytes+s.Records*recordBytes]
	le.PutUint32(b[4:], crc32.Checksum(h, crcTab))
	return xxhash.Sum64(h)
}

// ParseHeader decodes a segment's header out of b, which holds at least the header, from any
// source: it trusts nothing. limit bounds the whole segment's size.
func ParseHeader(b []byte, limit int) (Segment, error) {
	s, n, err := readHeader(b, limit)
	if err != nil {
		return s, err
	}
	h := b[:n]
	if sumAround(h, 4) != le.Uint32(b[4:]) {
		return s, fmt.Errorf("%w: header checksum of LSN %d", ErrCorrupt, s.LSN)
	}
	s.Hash = xxhash.Sum64(h)
	return s, nil
}

// readHeader decodes a header of n bytes and checks its bounds, but not its checksum.
func readHeader(b []byte, limit int) (s Segment, n int, err error) {
	if len(b) < fixedBytes || le.Uint32(b) != segMagic {
		return s, 0, fmt.Errorf("%w: no header", ErrCorrupt)
	}
	s = Segment{LSN: le.Uint64(b[8:]), Bytes: int(le.Uint32(b[16:])), Records: int(le.Uint16(b[20:])), HeaderBytes: int(le.Uint16(b[22:])) * sectorBytes,
		Durable: le.Uint64(b[24:]), Wall: int64(le.Uint64(b[32:])), Term: Term{le.Uint64(b[56:]), le.Uint64(b[64:])},
		Incarnation: le.Uint64(b[72:]), PrevHash: le.Uint64(b[80:])}
	copy(s.Volume[:], b[40:56])
	n = fixedBytes + s.Records*recordBytes
	if s.Records > maxRecords || s.HeaderBytes < n || s.Bytes < s.HeaderBytes || s.Bytes > limit || s.Bytes%sectorBytes != 0 || s.LSN == 0 || s.Durable >= s.LSN {
		return s, 0, fmt.Errorf("%w: header of LSN %d has impossible sizes", ErrCorrupt, s.LSN)
	}
	if len(b) < n {
		return s, 0, errShort
	}
	return s, n, nil
}

// Checksum is the CRC32C of a record's payload.
func Checksum(payload []byte) uint32 { return crc32.Checksum(payload, crcTab) }

// sumAround is the CRC32C of b, whose checksum field, the four bytes at at, counts as 0.
func sumAround(b []byte, at int) uint32 {
	sum := crc32.Update(0, crcTab, b[:at])
	sum = crc32.Update(sum, crcTab, zero4[:])
	return crc32.Update(sum, crcTab, b[at+4:])
}

var zero4 [4]byte

// errShort says that a header is longer than the bytes at hand.
var errShort = errors.New("seglog: more of the header is needed")

// within checks that no record reaches beyond a disk of so many bytes.
func (s *Segment) within(disk int64) error {
	for i := range s.Records {
		if r := s.Record(i); r.Offset > disk-r.Length {
			return fmt.Errorf("%w: LSN %d record %d lies beyond the disk's %d bytes", ErrCorrupt, s.LSN, i, disk)
		}
	}
	return nil
}

// Parse decodes and checks a whole segment: header, records' bounds, payload checksums.
func Parse(raw []byte, limit int) (Segment, error) {
	s, err := ParseHeader(raw, limit)
	if err != nil {
		if err == errShort {
			err = fmt.Errorf("%w: cut short", ErrCorrupt)
		}
		return s, err
	}
	if len(raw) < s.Bytes {
		return s, fmt.Errorf("%w: LSN %d cut short", ErrCorrupt, s.LSN)
	}
	s.Raw = raw[:s.Bytes]
	at := int64(s.HeaderBytes)
	for i := range s.Records {
		r := s.Record(i)
		if r.Kind == Discard || r.Kind == WriteZeroes || r.Kind == Bypass {
			if int64(r.off) != at || r.Length <= 0 || r.Length%sectorBytes != 0 || r.Offset < 0 || r.Offset > 1<<62 {
				return s, fmt.Errorf("%w: LSN %d record %d has impossible bounds", ErrCorrupt, s.LSN, i)
			}
			continue
		}
		if r.Kind != Data {
			return s, fmt.Errorf("%w: LSN %d record %d is of kind %d, which this version does not know", ErrCorrupt, s.LSN, i, r.Kind)
		}
		if int64(r.off) != at || r.Length <= 0 || r.Length%sectorBytes != 0 || at+r.Length > int64(s.Bytes) || r.Offset < 0 || r.Offset > 1<<62 {
			return s, fmt.Errorf("%w: LSN %d record %d has impossible bounds", ErrCorrupt, s.LSN, i)
		}
		if Checksum(s.Payload(r)) != r.CRC {
			return s, fmt.Errorf("%w: LSN %d record %d has a wrong payload checksum", ErrCorrupt, s.LSN, i)
		}
		at += r.Length
	}
	return s, nil
}
