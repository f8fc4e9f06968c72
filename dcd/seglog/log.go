package seglog

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// idleNanos is how long nothing must have been sealed before an empty segment declares the last ones durable.
const idleNanos = 100_000_000

// Log is the segment log. Every method is the loop's.
type Log struct {
	dev     blk.Device // nil: lost, or never there; segments live in RAM only
	ram     []byte     // ChunkBytes: position p lies at p mod ChunkBytes
	lent    bool       // ram is somebody else's
	super   Super
	incarn  uint64
	segs    []segInfo // by LSN mod its length
	readers []*Reader

	first     LSN // oldest segment that may be looked up
	sealed    LSN
	durable   LSN
	head      Pos    // where the next segment may begin
	floor     Pos    // positions below are not in RAM, whatever their age
	hash      uint64 // of the last sealed header
	startHash uint64

	open     Segment // being filled, between Begin and Seal
	openAt   int     // next payload byte in it
	openRec  int
	isOpen   bool
	declared LSN // durable-through of the last sealed header
	lastData LSN // last sealed segment that has records
	sealedAt int64

	app     blk.Request // the one append in flight
	appTo   LSN
	appBusy bool
	appDone bool
	merge   merging

	sup   supers
	sums  summaries
	dirty Dirty
	rec   reclaim
	stage stage

	failed        error
	deadline      int64
	recoveryBytes int64

	// Counters, for status and metrics.
	Appends, AppendedBytes uint64
	appAt                  int64 // when the append in flight began
	appNanos               int64 // that an append takes, on average
	now                    int64
	DeviceReadBytes        uint64 // read back because RAM had it no more
}

// segInfo is what is remembered of each retained segment.
type segInfo struct {
	pos     Pos
	hash    uint64
	durable LSN // what its header declares
	bytes   uint32
	records uint32
	wall    int64 // when it was sealed; 0: not known
}

func (l *Log) info(lsn LSN) *segInfo { return &l.segs[lsn%LSN(len(l.segs))] }

// Dirty is the log's dirty map.
func (l *Log) Dirty() *Dirty { return &l.dirty }

// Super is the superblock as it is in memory; change it through Update only.
func (l *Log) Super() *Super { return &l.super }

// Sealed is the newest segment's LSN.
func (l *Log) Sealed() LSN { return l.sealed }

// Durable is the LSN up to which all segments are durable here.
func (l *Log) Durable() LSN { return l.durable }

// LastData is the newest segment that has records, as far as is known.
func (l *Log) LastData() LSN { return l.lastData }

// First is the oldest LSN that Lookup and Readers can give.
func (l *Log) First() LSN { return l.first }

// Head is where the next segment may begin; Head minus the start's position is what is occupied.
func (l *Log) Head() Pos { return l.head }

// InFlight counts appends that the log device has not answered.
func (l *Log) InFlight() int {
	if l.appBusy {
		return 1
	}
	return 0
}

// Busy reports whether anything is on its way to the device.
func (l *Log) Busy() bool {
	return l.appBusy || l.sup.busy || l.sums.busy || l.dirty.busy || l.stage.out > 0
}

// Unwritten reports whether sealed segments are still on their way to a device that works.
func (l *Log) Unwritten() bool { return l.durable < l.sealed && l.failed == nil }

// Err is why the log device has failed for good, or nil.
func (l *Log) Err() error { return l.failed }

// Fail records that the device has failed for good.
func (l *Log) Fail(err error) {
	if l.failed == nil && l.dev != nil {
		l.failed = err
	}
}

// Device is the log device, nil when it is lost.
func (l *Log) Device() blk.Device { return l.dev }

// Used is how many bytes of the ring are occupied, and of how many.
func (l *Log) Used() (used, of int64) {
	return int64(l.head - l.rec.free), l.ringBytes()
}

// Memory is the RAM ring, from which appends are written.
func (l *Log) Memory() []byte { return l.ram }

// Readers counts the jobs that the log has.
func (l *Log) Readers() int { return len(l.readers) }

// Free is the position below which everything may be overwritten.
func (l *Log) Free() Pos { return l.rec.free }

// AppendNanos is how long an append takes, a moving average; 0 when not known yet.
func (l *Log) AppendNanos() int64 { return l.appNanos }

// Wall is the wall-clock time at which a retained segment was sealed; of one that recovery knows by a
// summary, that of the nearest before it that is known.
func (l *Log) Wall(lsn LSN) (int64, bool) {
	if lsn < l.first || lsn > l.sealed {
		return 0, false
	}
	wall := l.info(lsn).wall
	return wall, wall != 0
}

// ringBytes is the space for segments: without a device only what RAM holds.
func (l *Log) ringBytes() int64 {
	if l.dev == nil {
		return l.super.ChunkBytes
	}
	return l.super.RingBytes
}

// Hash gives the header hash of a retained segment, or of the one before the oldest.
func (l *Log) Hash(lsn LSN) (uint64, bool) {
	switch {
	case lsn >= l.first && lsn <= l.sealed:
		return l.info(lsn).hash, true
	case lsn == l.first-1:
		return l.startHash, true
	}
	return 0, false
}

// Lookup describes a retained segment; Raw is nil.
func (l *Log) Lookup(lsn LSN) (s Segment, ok bool) {
	if lsn < l.first || lsn > l.sealed {
		return s, false
	}
	i := l.info(lsn)
	return Segment{LSN: lsn, Pos: i.pos, Bytes: int(i.bytes), Records: int(i.records), Hash: i.hash}, true
}

// LSNAt is the LSN of the retained segment that position p lies in.
func (l *Log) LSNAt(p Pos) LSN {
	lo, hi := l.first, l.sealed
	for lo < hi {
		m := lo + (hi-lo+1)/2
		if l.info(m).pos <= p {
			lo = m
		} else {
			hi = m - 1
		}
	}
	return lo
}

// place finds where a segment of n bytes goes: at the head, or at the next chunk.
func (l *Log) place(n int64) Pos {
	c := Pos(l.super.ChunkBytes)
	if l.head%c+Pos(n) > c {
		return (l.head/c + 1) * c
	}
	return l.head
}

// room reports whether a segment of n bytes at p would overwrite nothing that is needed.
func (l *Log) room(p Pos, n int64) bool {
	end := p + Pos(n)
	if end > l.rec.free+Pos(l.ringBytes()) || l.sealed+1-l.first >= LSN(len(l.segs)) {
		return false
	}
	// In RAM the bytes one chunk earlier go: they must be on the device.
	if l.durable < l.sealed && end > l.info(l.durable+1).pos+Pos(l.super.ChunkBytes) && !(Planted && Plant == "ram-early") {
		return false
	}
	return true
}

// padded is the room that a segment of n bytes takes on this log.
func (l *Log) padded(n int) int64 { return int64(roundUp(n, int(l.super.BlockBytes))) }

// Begin opens a segment for exactly that many records and payload bytes. It reports false when
// there is no room now: Kick makes some as readers release.
func (l *Log) Begin(records int, payload int64) bool {
	if l.isOpen {
		panic("seglog: two segments open")
	}
	hdr := headerSize(records, int(l.super.BlockBytes))
	n := l.padded(hdr + int(payload))
	if records > maxRecords || n > l.super.MaxSegmentBytes {
		panic(fmt.Sprintf("seglog: a segment of %d records and %d bytes", records, payload))
	}
	p := l.place(n)
	if !l.room(p, n) {
		l.rec.wanted = true
		return false
	}
	at := int64(p % Pos(l.super.ChunkBytes))
	l.open = Segment{LSN: l.sealed + 1, Pos: p, Bytes: int(n), HeaderBytes: hdr, Records: records, Term: l.super.Term, Incarnation: l.incarn,
		PrevHash: l.hash, Volume: l.super.Volume, Raw: l.ram[at : at+n : at+n]}
	l.openAt, l.openRec, l.isOpen = hdr, 0, true
	clear(l.open.Raw[fixedBytes+records*recordBytes : hdr])
	return true
}

// MaxPayload is how many payload bytes fit a segment of that many records.
func (l *Log) MaxPayload(records int) int64 {
	return l.super.MaxSegmentBytes/int64(l.super.BlockBytes)*int64(l.super.BlockBytes) - int64(headerSize(records, int(l.super.BlockBytes)))
}

// Add copies one record's payload into the open segment and says where it lies.
func (l *Log) Add(k Kind, off, length int64, src []byte) Pos {
	s := &l.open
	dst := s.Raw[l.openAt : l.openAt+int(length)]
	copy(dst, src)
	putRecord(s.Raw[fixedBytes+l.openRec*recordBytes:], k, 0, off, length, Checksum(dst), l.openAt)
	p := s.Pos + Pos(l.openAt)
	l.openAt += int(length)
	l.openRec++
	return p
}

// AddRange adds a record without payload: a Discard or WriteZeroes of a range.
func (l *Log) AddRange(k Kind, flags uint8, off, length int64) {
	putRecord(l.open.Raw[fixedBytes+l.openRec*recordBytes:], k, flags, off, length, 0, l.openAt)
	l.openRec++
}

// Seal closes the open segment and starts its append.
func (l *Log) Seal(now blk.Instant) LSN {
	s := &l.open
	if l.openRec != s.Records {
		panic("seglog: sealed with records missing")
	}
	clear(s.Raw[l.openAt:])
	s.Durable, s.Wall = l.durable, now.Wall
	if Planted && Plant == "declare-zero" {
		s.Durable = 0
	}
	s.Hash = putHeader(s)
	l.isOpen = false
	l.sealedAt, l.now = now.Mono, now.Mono
	l.accept(s)
	return s.LSN
}

// note makes s the newest segment that is known.
func (l *Log) note(s *Segment) {
	wall := s.Wall
	if wall == 0 && s.LSN > l.first {
		wall = l.info(s.LSN - 1).wall
	}
	*l.info(s.LSN) = segInfo{pos: s.Pos, hash: s.Hash, durable: s.Durable, bytes: uint32(s.Bytes), records: uint32(s.Records), wall: wall}
	l.pass(s)
	l.declared = s.Durable
	if s.Records > 0 {
		l.lastData = s.LSN
	}
}

// pass makes the chain go on behind s.
func (l *Log) pass(s *Segment) {
	l.sealed, l.hash, l.head = s.LSN, s.Hash, s.Pos+Pos(l.padded(s.Bytes))
}

// accept makes s, whose bytes are in RAM, the newest segment.
func (l *Log) accept(s *Segment) {
	l.note(s)
	l.summarize(s)
	if Planted && Plant == "ack-early" {
		l.durable = l.sealed
	}
	if !l.merges() {
		l.push()
	} // else Kick does, when all that came is here
}

// push starts the append of what is sealed and not yet on its way: neighbouring segments in one
// contiguous write.
func (l *Log) push() {
	if l.appBusy || l.appDone || l.appTo == l.sealed {
		return
	}
	if l.dev == nil {
		l.appTo, l.durable = l.sealed, l.sealed
		return
	}
	if l.failed != nil {
		return
	}
	c := Pos(l.super.ChunkBytes)
	from := l.info(l.appTo + 1)
	end := from.pos + Pos(l.padded(int(from.bytes)))
	to := l.appTo + 1
	for to < l.sealed {
		i := l.info(to + 1)
		e := i.pos + Pos(l.padded(int(i.bytes)))
		if i.pos != end || i.pos%c == 0 || int64(e-from.pos) > l.super.MaxSegmentBytes {
			break
		}
		if i.durable > l.appTo && !(l.merges() && int64(e-from.pos) <= mergeBytes) {
			// It declares durable, at the primary, what is only being written here: were both
			// torn apart by a power cut, a torn tail would look like corruption.
			break
		}
		to, end = to+1, e
	}
	l.merge.flying = l.merge.on
	n := int64(end - from.pos)
	at := int64(from.pos % c)
	l.app = blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: l.DeviceOffset(from.pos), Length: n, Buf: l.ram[at : at+n : at+n], Owner: l}
	l.appTo, l.appBusy, l.appAt = to, true, l.now
	l.Appends++
	l.AppendedBytes += uint64(n)
	l.dev.Submit(&l.app)
}

// DeviceOffset is where position p lies on the device.
func (l *Log) DeviceOffset(p Pos) int64 { return l.super.RingOffset + int64(p%Pos(l.super.RingBytes)) }

// Complete records the end of an append.
func (l *Log) Complete(r *blk.Request) {
	l.appBusy, l.appDone = false, true
}

// Kick follows up on appends and superblocks, reclaims space, and says when it wants to be called.
func (l *Log) Kick(now blk.Instant) int64 {
	if l.dev != nil {
		l.dev.Kick(now)
	}
	l.now = now.Mono
	if l.appDone {
		l.appDone = false
		if d := now.Mono - l.appAt; l.appAt > 0 && d > 0 {
			l.appNanos += (d - l.appNanos) / 8
		}
		switch {
		case l.app.Err == 0:
			l.durable = max(l.durable, l.appTo)
		case l.failed == nil:
			l.failed = fmt.Errorf("seglog: append: %w", l.app.Err)
		}
	}
	l.push()
	l.kickStage()
	l.kickSuper()
	l.kickSummaries()
	l.dirty.kick()
	l.reclaim()
	return l.overdue(now.Mono)
}

// Declare seals an empty segment when nothing has been sealed for a while and the last records
// are durable but not declared so. Only the primary's owner calls it. It gives when to be asked again.
func (l *Log) Declare(now blk.Instant) (wake int64) {
	if l.isOpen || l.lastData <= l.declared || l.lastData == 0 {
		return blk.Never
	}
	if l.durable < l.sealed {
		return blk.Never // the append's completion asks again
	}
	if at := l.sealedAt + idleNanos; now.Mono < at {
		return at
	}
	if l.Begin(0, 0) {
		l.Seal(now)
	}
	return blk.Never
}

// Adopt takes a segment of the primary's as it is: checked, copied once, appended. Its Raw in
// the result is the RAM copy, for immediate use. ErrFull: nothing happened, try again later.
func (l *Log) Adopt(raw []byte) (Segment, error) {
	s, err := Parse(raw, int(l.super.MaxSegmentBytes))
	switch {
	case err != nil:
		return s, err
	case s.Volume != l.super.Volume:
		return s, ErrVolume
	case s.LSN != l.sealed+1:
		return s, fmt.Errorf("%w: LSN %d after %d", ErrOrder, s.LSN, l.sealed)
	case s.PrevHash != l.hash:
		return s, fmt.Errorf("%w: LSN %d", ErrChain, s.LSN)
	}
	if err := s.within(l.super.DiskBytes); err != nil {
		return s, err
	}
	n := l.padded(s.Bytes)
	p := l.place(n)
	if !l.room(p, n) {
		l.rec.wanted = true
		return s, ErrFull
	}
	at := int64(p % Pos(l.super.ChunkBytes))
	s.Pos = p
	s.Raw = l.ram[at : at+int64(s.Bytes)]
	copy(s.Raw, raw)
	clear(l.ram[at+int64(s.Bytes) : at+n])
	l.accept(&s)
	return s, nil
}

// RAM gives n bytes at position p while RAM has them, for immediate use, else nil.
func (l *Log) RAM(p Pos, n int) []byte {
	if p < l.floor || p+Pos(l.super.ChunkBytes) < l.head && !(Planted && Plant == "ram-late") {
		return nil
	}
	// The open segment, and one placed beyond a gap, may reach further than head.
	if l.isOpen && p+Pos(l.super.ChunkBytes) < l.open.Pos+Pos(l.open.Bytes) {
		return nil
	}
	at := int64(p % Pos(l.super.ChunkBytes))
	return l.ram[at : at+int64(n)]
}

// SetDeadline changes Options.Deadline, also for what is under way.
func (l *Log) SetDeadline(ns int64) { l.deadline = ns }

// LoseDevice makes the log go on in RAM after its device has failed for good: appends and
// superblocks are complete at once, and it is the owner who knows what that is worth. An append
// that hangs keeps its part of the RAM ring until it returns.
func (l *Log) LoseDevice() {
	l.dev = nil
	l.floor = max(l.floor, l.head-min(l.head, Pos(l.super.ChunkBytes)))
	l.appTo, l.durable = l.sealed, l.sealed
	l.sup.lose()
	l.super.noStage() // whoever needs its blocks has to say that they are lost
	l.dirty.busy, l.dirty.done = false, false
}

// Close gives memory back; nothing may be in flight.
func (l *Log) Close() error {
	if l.Busy() {
		return fmt.Errorf("seglog: closed with an append in flight")
	}
	for _, r := range l.readers {
		blk.Free(r.buf)
	}
	var err error
	if !l.lent {
		err = blk.Free(l.ram)
	}
	l.ram = nil
	if e := blk.Free(l.sums.out); err == nil {
		err = e
	}
	l.sums.out = nil
	if e := l.dirty.close(); err == nil {
		err = e
	}
	if e := blk.Free(l.sup.buf); err == nil {
		err = e
	}
	return err
}
