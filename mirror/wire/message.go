package wire

import (
	"bytes"
	"fmt"
)

// Point is an LSN of a chain with its header's hash.
type Point struct{ LSN, Hash uint64 }

// HelloMsg says who a node is and how far its log goes.
type HelloMsg struct {
	Version, MinVersion uint16
	Required, Offered   uint64 // feature words
	Volume              [16]byte
	Session             [16]byte
	Connection          uint32 // number of this connection within the session
	Primary             bool
	Serving             bool // a primary that has acknowledged anything since its start
	New                 bool // a secondary that has never met its primary
	Discard             bool // a secondary whose user gives up what only it has
	Mode                uint8
	Marks               uint32
	DiskBytes           uint64
	DiskBlock, LogBlock uint32
	MaxSegment          uint32
	Term                Term
	First, Last         Point // what the log holds: Hash of First is that of the segment before it
	Declared            uint64
	Destaged            uint64
	Name                string
	StageRoom           uint64 // bytes of log that a secondary can stage a sync in; 0: none
	Staging             bool   // a secondary whose log holds a sync that is not visible: its copy ends at Visible
	Visible             Point  // encoded with Staging only
}

const (
	helloBytes   = 232
	visibleBytes = 16 // behind, with Staging
)

// Encode gives the message's bytes.
func (h *HelloMsg) Encode() []byte {
	b := make([]byte, helloBytes, helloBytes+visibleBytes)
	le.PutUint16(b, h.Version)
	le.PutUint16(b[2:], h.MinVersion)
	le.PutUint32(b[4:], h.Connection)
	le.PutUint64(b[8:], h.Required)
	le.PutUint64(b[16:], h.Offered)
	copy(b[24:], h.Volume[:])
	copy(b[40:], h.Session[:])
	for i, f := range []bool{h.Primary, h.Serving, h.New, h.Discard, h.Staging} {
		if f {
			b[56] |= 1 << i
		}
	}
	b[57] = h.Mode
	le.PutUint32(b[60:], h.Marks)
	le.PutUint64(b[64:], h.DiskBytes)
	le.PutUint32(b[72:], h.DiskBlock)
	le.PutUint32(b[76:], h.LogBlock)
	le.PutUint32(b[80:], h.MaxSegment)
	for i, v := range []uint64{h.Term.Number, h.Term.ID, h.First.LSN, h.First.Hash, h.Last.LSN, h.Last.Hash, h.Declared, h.Destaged} {
		le.PutUint64(b[88+8*i:], v)
	}
	copy(b[152:216], h.Name)
	le.PutUint64(b[216:], h.StageRoom)
	if h.Staging {
		b = le.AppendUint64(b, h.Visible.LSN)
		b = le.AppendUint64(b, h.Visible.Hash)
	}
	return b
}

// DecodeHello decodes a hello; the version is looked at before anything else.
func DecodeHello(b []byte) (h HelloMsg, err error) {
	if len(b) < 4 {
		return h, fmt.Errorf("%w: hello of %d bytes", ErrBody, len(b))
	}
	h.Version, h.MinVersion = le.Uint16(b), le.Uint16(b[2:])
	if h.MinVersion > Version || h.Version < MinVersion {
		return h, nil // the caller says which versions do not meet
	}
	if len(b) < helloBytes {
		return h, fmt.Errorf("%w: hello of %d bytes", ErrBody, len(b))
	}
	h.Connection, h.Required, h.Offered = le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:])
	copy(h.Volume[:], b[24:])
	copy(h.Session[:], b[40:])
	h.Primary, h.Serving, h.New, h.Discard = b[56]&1 != 0, b[56]&2 != 0, b[56]&4 != 0, b[56]&8 != 0
	h.Mode, h.Marks, h.DiskBytes, h.DiskBlock, h.LogBlock, h.MaxSegment = b[57], le.Uint32(b[60:]), le.Uint64(b[64:]), le.Uint32(b[72:]), le.Uint32(b[76:]), le.Uint32(b[80:])
	v := func(i int) uint64 { return le.Uint64(b[88+8*i:]) }
	h.Term = Term{v(0), v(1)}
	h.First, h.Last, h.Declared, h.Destaged = Point{v(2), v(3)}, Point{v(4), v(5)}, v(6), v(7)
	h.Name = string(bytes.TrimRight(b[152:216], "\x00"))
	h.StageRoom = le.Uint64(b[216:])
	if h.Staging = b[56]&16 != 0; h.Staging {
		if len(b) < helloBytes+visibleBytes {
			return h, fmt.Errorf("%w: hello of %d bytes", ErrBody, len(b))
		}
		h.Visible = Point{le.Uint64(b[helloBytes:]), le.Uint64(b[helloBytes+8:])}
	}
	return h, nil
}

// MaxPoints bounds a Probe.
const MaxPoints = 1024

// EncodePoints gives a list of points.
func EncodePoints(p []Point) []byte {
	b := make([]byte, 16*len(p))
	for i, x := range p {
		le.PutUint64(b[16*i:], x.LSN)
		le.PutUint64(b[16*i+8:], x.Hash)
	}
	return b
}

// DecodePoints decodes a list of at most MaxPoints.
func DecodePoints(b []byte) ([]Point, error) {
	if len(b)%16 != 0 || len(b) > 16*MaxPoints {
		return nil, fmt.Errorf("%w: %d bytes of points", ErrBody, len(b))
	}
	p := make([]Point, len(b)/16)
	for i := range p {
		p[i] = Point{le.Uint64(b[16*i:]), le.Uint64(b[16*i+8:])}
	}
	return p, nil
}

// Way is how a session goes on after the hello.
type Way uint8

// Ways.
const (
	Stream   Way = 1 // the log, from LSN+1
	FullSync Way = 2 // everything; the log goes on after LSN with Hash
	TakeTail Way = 3 // the peer's segments after LSN come to this primary, which does not serve yet
	Refuse   Way = 4
	MapSync  Way = 5 // what the primary's dirty map says; the log goes on after LSN with Hash
)

// DecisionMsg is the primary's decision.
type DecisionMsg struct {
	Way    Way
	Cut    bool // first cut everything after At.LSN, durably
	Resume bool // a FullSync or MapSync that was interrupted goes on: the copy stays as it is
	Parted bool // why it is refused: both sides wrote (0 from a peer that does not know of it)
	Stage  bool // a FullSync or MapSync that becomes visible at its end (0 from a primary without FeatureStage)
	At     Point
	Mode   uint8
	Volume [16]byte
	Common uint64 // the newest LSN that both chains have: what the copy has beyond is given up
	Reason string
}

// Encode gives the message's bytes.
func (d *DecisionMsg) Encode() []byte {
	b := make([]byte, decisionBytes, decisionBytes+len(d.Reason))
	b[0] = byte(d.Way)
	if d.Cut {
		b[1] = 1
	}
	b[2] = d.Mode
	if d.Resume {
		b[3] = 1
	}
	if d.Parted {
		b[4] = 1
	}
	if d.Stage {
		b[5] = 1
	}
	le.PutUint64(b[8:], d.At.LSN)
	le.PutUint64(b[16:], d.At.Hash)
	copy(b[24:], d.Volume[:])
	le.PutUint64(b[40:], d.Common)
	return append(b, d.Reason[:min(len(d.Reason), MaxReason)]...)
}

const decisionBytes = 48

// MaxReason bounds a reason.
const MaxReason = 512

// DecodeDecision decodes a decision.
func DecodeDecision(b []byte) (d DecisionMsg, err error) {
	if len(b) < decisionBytes || len(b) > decisionBytes+MaxReason {
		return d, fmt.Errorf("%w: decision of %d bytes", ErrBody, len(b))
	}
	d = DecisionMsg{Way: Way(b[0]), Cut: b[1] == 1, Mode: b[2], Resume: b[3] == 1, Parted: b[4] == 1, Stage: b[5] == 1, At: Point{le.Uint64(b[8:]), le.Uint64(b[16:])}, Common: le.Uint64(b[40:]), Reason: string(b[decisionBytes:])}
	copy(d.Volume[:], b[24:])
	if d.Way < Stream || d.Way > MapSync {
		return d, fmt.Errorf("%w: decision %d", ErrBody, d.Way)
	}
	return d, nil
}

// RangeBytes is the size of a range in front of a body's data.
const RangeBytes = 32

// Range names a part of the disk; ID pairs a read's reply with its request. Of a Resync or Compare it is
// the offset before which a sync is done once the frame was acted upon, from whoever offers FeatureHash.
type Range struct {
	ID             uint64
	Offset, Length int64
	Errno          uint32 // of a reply
	Zero           bool   // the range is all zeros and its data is left out
}

// Put encodes the range into b.
func (r Range) Put(b []byte) {
	le.PutUint64(b, r.ID)
	le.PutUint64(b[8:], uint64(r.Offset))
	le.PutUint64(b[16:], uint64(r.Length))
	le.PutUint32(b[24:], r.Errno)
	b[28], b[29], b[30], b[31] = 0, 0, 0, 0
	if r.Zero {
		b[28] = 1
	}
}

// ParseRange decodes a range within a disk of size bytes, and gives the data behind it.
func ParseRange(b []byte, size int64) (r Range, data []byte, err error) {
	if len(b) < RangeBytes {
		return r, nil, fmt.Errorf("%w: range of %d bytes", ErrBody, len(b))
	}
	r = Range{ID: le.Uint64(b), Offset: int64(le.Uint64(b[8:])), Length: int64(le.Uint64(b[16:])), Errno: le.Uint32(b[24:]), Zero: b[28] == 1}
	if r.Offset < 0 || r.Length <= 0 || r.Length > MaxBody-RangeBytes || r.Offset > size-r.Length || r.Offset%512 != 0 || r.Length%512 != 0 {
		return r, nil, fmt.Errorf("%w: range [%d, +%d) of %d", ErrBody, r.Offset, r.Length, size)
	}
	data = b[RangeBytes:]
	if int64(len(data)) != r.Length && len(data) != 0 {
		return r, nil, fmt.Errorf("%w: %d bytes for a range of %d", ErrBody, len(data), r.Length)
	}
	return r, data, nil
}

// Facts of a Mark, in Frame.Flags.
const (
	FactRefill   uint8 = 1 // the sender lost its disk or log: this copy is the volume
	FactEnd      uint8 = 2 // everything is declared and shall be destaged: the chain ends
	FactRefilled uint8 = 3 // the sender does not need this copy any more
	FactSwap     uint8 = 4 // a secondary asks for the primary's role, Body says for how long; MarkDone: the primary is demoted, durably, and its chain ends at LSN
	FactKeep     uint8 = 5 // MarkDone only: it keeps its role; Body is the reason
)

// MaxWait bounds how long a secondary waits for the role that it asked for, in ns.
const MaxWait = 3600_000_000_000

// EncodeWait gives the bytes of a wait in ns.
func EncodeWait(ns int64) []byte { return le.AppendUint64(nil, uint64(ns)) }

// DecodeWait decodes a wait of at most MaxWait.
func DecodeWait(b []byte) (ns int64, err error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: a wait of %d bytes", ErrBody, len(b))
	}
	if ns = int64(le.Uint64(b)); ns <= 0 || ns > MaxWait {
		return 0, fmt.Errorf("%w: a wait of %d ns", ErrBody, ns)
	}
	return ns, nil
}

// Backlog is what a primary's log holds from LSN From on, which it does not know to be durable at the peer.
type Backlog struct {
	From  uint64
	Bytes uint64 // of log, each segment padded to the log's block
}

// BacklogBytes is the size of a Backlog.
const BacklogBytes = 16

// Put encodes the backlog into b.
func (l Backlog) Put(b []byte) {
	le.PutUint64(b, l.From)
	le.PutUint64(b[8:], l.Bytes)
}

// DecodeBacklog decodes a backlog.
func DecodeBacklog(b []byte) (l Backlog, err error) {
	if len(b) != BacklogBytes {
		return l, fmt.Errorf("%w: a backlog of %d bytes", ErrBody, len(b))
	}
	return Backlog{le.Uint64(b), le.Uint64(b[8:])}, nil
}
