package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version is the protocol version that this side speaks, MinVersion the oldest it understands.
const (
	Version    = 1
	MinVersion = 1
)

// Kind is what a frame carries.
type Kind uint8

// Kinds of frames.
const (
	Hello       Kind = 1 // both ways, first: who, what, how far
	Probe       Kind = 2 // header hashes asked for, or given: where two chains part
	Decision    Kind = 3 // the primary says how the session goes on
	Segment     Kind = 4 // one segment as it is in the log
	Ack         Kind = 5 // LSN received, Durable durable, at the sender
	Heartbeat   Kind = 6 // alive; Durable as everywhere
	ReadRequest Kind = 7 // the primary reads the peer's copy
	ReadReply   Kind = 8
	Resync      Kind = 9  // a block of a full sync, at its place in the order
	ResyncEnd   Kind = 10 // everything was sent; LSN is what the copy then stands for
	Mark        Kind = 11 // make a fact durable: a refill is needed, the copy is whole, the chain ends
	MarkDone    Kind = 12
	Goodbye     Kind = 13 // the sender ends the session; Body is the reason
	Fetch       Kind = 14 // instead of a hello: the segment LSN of volume Body, for a log that is damaged
	Progress    Kind = 15 // a full or map sync is durable on the sender's disk up to the end of the range in Body
	Compare     Kind = 16 // instead of a Resync: hashes of a range, at its place in the order
	Differs     Kind = 17 // the answer: which pieces of the range the sender's copy does not have like that

	lastKind = Differs
)

// MaxBody bounds a frame's body.
const MaxBody = 2 << 20

// HeadBytes is the size of a frame's header, little-endian:
//
//	0  magic "RBL1"      8  body bytes (u32)      32  LSN
//	4  kind (u8)        12  CRC32C of the body¹   40  durable-through LSN
//	5  flags (u8)       16  term number           48  time of sending, ns, the sender's own clock
//	6  reserved (u16)   24  term id               56  CRC32C of bytes 0 to 55
//	                                              60  reserved (u32)
//
// ¹ 0 with FlagOwnSum.
const HeadBytes = 64

const magic = 0x314c4252 // "RBL1"

// Term is the reign of a primary, as in the log.
type Term struct{ Number, ID uint64 }

// Frame is one message. Body belongs to whoever gave it.
type Frame struct {
	Kind    Kind
	Flags   uint8
	Term    Term
	LSN     uint64
	Durable uint64
	Sent    int64
	Body    []byte
}

// Errors of frames that cannot be taken: the connection ends.
var (
	ErrMagic  = errors.New("wire: not a frame of this protocol")
	ErrCRC    = errors.New("wire: damaged frame")
	ErrTooBig = errors.New("wire: frame larger than allowed")
	ErrKind   = errors.New("wire: unknown kind of frame")
	ErrBody   = errors.New("wire: malformed message")
)

var (
	le     = binary.LittleEndian
	crcTab = crc32.MakeTable(crc32.Castagnoli)
)

// PutHead encodes f's header into b.
func PutHead(b []byte, f *Frame) {
	_ = b[HeadBytes-1]
	le.PutUint32(b, magic)
	b[4], b[5], b[6], b[7] = byte(f.Kind), f.Flags, 0, 0
	le.PutUint32(b[8:], uint32(len(f.Body)))
	le.PutUint32(b[12:], bodySum(f.Kind, f.Flags, f.Body))
	le.PutUint64(b[16:], f.Term.Number)
	le.PutUint64(b[24:], f.Term.ID)
	le.PutUint64(b[32:], f.LSN)
	le.PutUint64(b[40:], f.Durable)
	le.PutUint64(b[48:], uint64(f.Sent))
	le.PutUint32(b[56:], crc32.Checksum(b[:56], crcTab))
	le.PutUint32(b[60:], 0)
}

// ParseHead decodes and checks a header; n is how long the body is.
func ParseHead(b []byte) (f Frame, n int, err error) {
	_ = b[HeadBytes-1]
	switch {
	case le.Uint32(b) != magic:
		return f, 0, ErrMagic
	case crc32.Checksum(b[:56], crcTab) != le.Uint32(b[56:]):
		return f, 0, fmt.Errorf("%w: header", ErrCRC)
	}
	f = Frame{Kind: Kind(b[4]), Flags: b[5], Term: Term{le.Uint64(b[16:]), le.Uint64(b[24:])}, LSN: le.Uint64(b[32:]), Durable: le.Uint64(b[40:]), Sent: int64(le.Uint64(b[48:]))}
	size := le.Uint32(b[8:])
	switch {
	case f.Kind < Hello || f.Kind > lastKind:
		return f, 0, fmt.Errorf("%w: %d", ErrKind, f.Kind)
	case size > MaxBody:
		return f, 0, fmt.Errorf("%w: %d bytes", ErrTooBig, size)
	}
	return f, int(size), nil
}

// CheckBody compares a body with the checksum in its header.
func CheckBody(head, body []byte) error {
	if bodySum(Kind(head[4]), head[5], body) != le.Uint32(head[12:]) {
		return fmt.Errorf("%w: body", ErrCRC)
	}
	return nil
}

func bodySum(k Kind, flags uint8, body []byte) uint32 {
	if k == Segment && flags&FlagOwnSum != 0 {
		return 0
	}
	return crc32.Checksum(body, crcTab)
}
