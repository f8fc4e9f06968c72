package seglog

import (
	"fmt"
	"hash/crc32"

	"github.com/robib-ublk/robib/ublk/blk"
)

// A stage is a stretch of the ring in front of the recovery start that holds blocks of a sync: see Super.
// Each begins with a head, packed as everything at StageUnit, little-endian:
//
//	0  magic "STG1"                8  stage id           32  length on the data disk, bytes
//	4  CRC32C of the head's first  16  number, from 0     40  flags: 1 zeros, without payload (u32)
//	   64 bytes (this field as 0)  24  offset there       44  CRC32C of the payload (u32)
//
// The first that is not valid, or not the next one, is the end.
const (
	stageMagic = 0x31475453 // "STG1"
	stageHead  = 64
	stageZero  = 1
	stageSlots = 16      // appends in flight
	stageMax   = 1 << 20 // payload of one block
	stageRead  = 2 << 20 // of the stretch, at one go
)

// Staged is one block of a stage.
type Staged struct {
	Offset, Length int64  // on the data disk
	Payload        []byte // nil: zeros
}

// stage appends blocks.
type stage struct {
	at    Pos    // where the next block goes
	count uint64 // blocks there
	reqs  [stageSlots]stageReq
	out   int
	since int64 // when the oldest state of those in flight began
}

// stageReq carries a caller's request to the device.
type stageReq struct {
	blk.Request
	caller *blk.Request
	done   bool
}

// Complete records that the device has answered.
func (q *stageReq) Complete(*blk.Request) { q.done = true }

// tail is the position below which nothing is needed.
func (s *Super) tail() Pos {
	if s.StageBytes > 0 && !(Planted && Plant == "stage-reused") {
		return s.StagePos
	}
	return s.Start.Pos
}

func (s *Super) stageSane() bool {
	return s.StageBytes == 0 && s.Marks&Staging == 0 || s.StageBytes > 0 && s.StageBytes <= s.RingBytes && s.StagePos+Pos(s.StageBytes) == s.Start.Pos &&
		int64(s.StagePos%Pos(s.RingBytes)) <= s.RingBytes-s.StageBytes && int64(s.StagePos)%int64(s.BlockBytes) == 0
}

// noStage gives the stage up.
func (s *Super) noStage() {
	s.Visible, s.StagePos, s.StageBytes, s.StageID, s.StageBlocks = Point{}, 0, 0, 0, 0
	if s.Marks &^= Staging; s.MinTerm == 0 {
		s.Incompat &^= Stages
	}
}

// StageUnit is what heads and payloads of a stage are packed at: both disks can be read and written from there.
func (l *Log) StageUnit() int64 {
	return max(int64(l.super.BlockBytes), int64(l.super.DiskBlock), sectorBytes)
}

// StageCost is how much of a stage a block of n bytes takes at most.
func (l *Log) StageCost(n int64) int64 {
	u := l.StageUnit()
	return u + (n+u-1)/u*u
}

// StageSpace is how large a stage may be at most: what else comes of the log needs the other half.
func (l *Log) StageSpace() int64 {
	if l.dev == nil {
		return 0
	}
	u := max(l.StageUnit(), 4096)
	return l.super.RingBytes / 2 / u * u
}

// Staging reports whether the log holds a generation that is not visible.
func (l *Log) Staging() bool { return l.super.Marks&Staging != 0 }

// Applying reports whether the log holds blocks that belong on the data disk and may not be there.
func (l *Log) Applying() bool { return l.super.StageBytes > 0 && l.super.Marks&Staging == 0 }

// BeginStage makes the log begin a generation behind LSN p.LSN-1 of the primary's chain, with a stage of
// bytes, at most StageSpace. The log holds nothing that the data disk lacks: that is what stays visible.
// Where a generation is staged already, it is given up for this one, and what was visible stays so. As of
// Reset, change goes into the same superblock; the log's own end must lie before p.
func (l *Log) BeginStage(p Point, bytes int64, id uint64, change func(s *Super), drive blk.Drive) error {
	switch {
	case l.Busy():
		return fmt.Errorf("seglog: a stage with an append in flight")
	case l.sealed >= p.LSN || l.Applying():
		return fmt.Errorf("seglog: a stage behind LSN %d, and this log ends at %d", p.LSN-1, l.sealed)
	case bytes <= 0 || bytes > l.StageSpace():
		return fmt.Errorf("seglog: a stage of %d bytes; %d are the most", bytes, l.StageSpace())
	}
	visible := Point{LSN: l.sealed + 1, PrevHash: l.hash}
	if l.Staging() {
		visible = l.super.Visible
	}
	u, ring := Pos(l.StageUnit()), Pos(l.super.RingBytes)
	at := (l.head + u - 1) / u * u
	if at%ring+Pos(bytes) > ring {
		at = (at/ring + 1) * ring
	}
	l.stage.at, l.stage.count = at, 0
	p.Pos = at + Pos(bytes)
	return l.restart(p, func(s *Super) {
		s.noStage()
		change(s)
		s.Marks |= Staging
		s.Incompat |= Stages
		s.Visible, s.StagePos, s.StageBytes, s.StageID = visible, at, bytes, id
	}, drive)
}

// DropStage makes a generation that is staged go, durably: the log is empty, and goes on at what is visible.
// With a change that raises the term, for a chain of its own, the old one's segments are void from then on;
// else they are overwritten first.
func (l *Log) DropStage(change func(s *Super), drive blk.Drive) error {
	if !l.Staging() || l.Busy() {
		return fmt.Errorf("seglog: no stage to drop, or an append in flight")
	}
	s := l.super
	change(&s)
	if s.Term.Number == l.super.Term.Number {
		if err := l.Cut(l.super.Start.LSN-1, drive); err != nil {
			return err
		}
	}
	p := l.super.Visible
	p.Pos = l.head
	return l.restart(p, func(s *Super) {
		was := s.Term.Number
		if change(s); s.Term.Number > was {
			s.MinTerm = s.Term.Number
		}
		s.noStage()
	}, drive)
}

// ShowStage makes a generation the copy, with the superblock's ticket: durable must be its segments and, by a
// FlushStage that began after the last of them came back, its blocks. change may say that it is not whole.
func (l *Log) ShowStage(change func(s *Super)) (ticket uint64) {
	return l.Update(func(s *Super) {
		s.Marks &^= Staging
		s.Visible = Point{}
		change(s)
	})
}

// EndStage gives the space of a stage back whose blocks are durable on the data disk.
func (l *Log) EndStage() (ticket uint64) { return l.Update((*Super).noStage) }

// Stage appends the block of a sync that r writes to the data disk. r.Buf has StageUnit bytes of room in front,
// then r.Length bytes of payload, padded to StageUnit; zero: nothing but the room is looked at. r comes back
// by its Owner when the device has it, perhaps in its cache only. False: there is no room in the stage; or, with
// free, not now.
func (l *Log) Stage(r *blk.Request, zero bool) (ok, free bool) {
	u := l.StageUnit()
	n := u
	if !zero {
		n = l.StageCost(r.Length)
	}
	end := l.super.StagePos + Pos(l.super.StageBytes)
	if l.stage.at+Pos(n) > end {
		return false, false
	}
	q := l.stageSlot()
	if q == nil {
		return false, true
	}
	b := r.Buf[:n]
	clear(b[:u])
	if !zero {
		clear(b[u+r.Length:])
	}
	putStaged(b, u, l.super.StageID, l.stage.count, r.Offset, r.Length, zero)
	q.Request = blk.Request{Op: blk.Write, Offset: l.DeviceOffset(l.stage.at), Length: n, Buf: b}
	l.stage.at += Pos(n)
	l.stage.count++
	l.submitStage(q, r)
	return true, true
}

// FlushStage makes durable what came back of Stage before; r comes back by its Owner. False: not now.
func (l *Log) FlushStage(r *blk.Request) bool {
	q := l.stageSlot()
	if q == nil {
		return false
	}
	q.Request = blk.Request{Op: blk.Flush}
	l.submitStage(q, r)
	return true
}

func (l *Log) stageSlot() *stageReq {
	for i := range l.stage.reqs {
		if q := &l.stage.reqs[i]; q.caller == nil {
			return q
		}
	}
	return nil
}

func (l *Log) submitStage(q *stageReq, r *blk.Request) {
	r.Err = 0
	q.caller, q.done, q.Owner = r, false, q
	if l.stage.out++; l.stage.out == 1 {
		l.stage.since = l.now
	}
	l.dev.Submit(&q.Request)
}

// kickStage gives back what the device has answered.
func (l *Log) kickStage() {
	if l.stage.out == 0 {
		return
	}
	for i := range l.stage.reqs {
		q := &l.stage.reqs[i]
		if q.caller == nil || !q.done {
			continue
		}
		r := q.caller
		q.caller, l.stage.since = nil, l.now
		l.stage.out--
		if r.Err = q.Err; r.Err != 0 {
			l.Fail(fmt.Errorf("seglog: stage: %w", r.Err))
		}
		r.Owner.Complete(r)
	}
}

// StagedBlocks counts the blocks of the stage; those up to StageBlocks of the superblock are durable.
func (l *Log) StagedBlocks() uint64 { return l.stage.count }

// StageEnd is where the newest block of the stage ends, at its first one begins.
func (l *Log) StageEnd() (at, end Pos) { return l.super.StagePos, l.stage.at }

// StageRoom is how much room is left in the stage.
func (l *Log) StageRoom() int64 {
	return max(int64(l.super.StagePos)+l.super.StageBytes-int64(l.stage.at), 0)
}

func putStaged(b []byte, u int64, id, number uint64, off, length int64, zero bool) {
	le.PutUint32(b, stageMagic)
	for i, v := range []uint64{id, number, uint64(off), uint64(length)} {
		le.PutUint64(b[8+8*i:], v)
	}
	if zero {
		le.PutUint32(b[40:], stageZero)
	} else {
		le.PutUint32(b[44:], Checksum(b[u:u+length]))
	}
	le.PutUint32(b[4:], crc32.Checksum(b[:stageHead], crcTab))
}

// ParseStaged decodes block number of the stage, with which b begins, and says how many bytes it takes there.
// b, which may end before it does, is not changed; short says that it does.
func (l *Log) ParseStaged(b []byte, number uint64) (s Staged, n int64, short, ok bool) {
	u := l.StageUnit()
	if int64(len(b)) < u {
		return s, u, true, false
	}
	if le.Uint32(b) != stageMagic || le.Uint32(b[4:]) != sumAround(b[:stageHead], 4) || le.Uint64(b[8:]) != l.super.StageID || le.Uint64(b[16:]) != number {
		return s, 0, false, false
	}
	s.Offset, s.Length = int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:]))
	if s.Length <= 0 || s.Length > stageMax || s.Offset < 0 || s.Offset > l.super.DiskBytes-s.Length || s.Offset%sectorBytes != 0 || s.Length%sectorBytes != 0 {
		return s, 0, false, false
	}
	if le.Uint32(b[40:]) == stageZero {
		return s, u, false, true
	}
	if n = l.StageCost(s.Length); int64(len(b)) < n {
		return s, n, true, false
	}
	s.Payload = b[u : u+s.Length]
	return s, n, false, Checksum(s.Payload) == le.Uint32(b[44:])
}

// openStage finds the blocks of a stage, and where the next one goes.
func (l *Log) openStage(o *Options, drive blk.Drive) error {
	s := &l.super
	l.stage.at, l.stage.count = s.StagePos, 0
	if s.StageBytes == 0 {
		return nil
	}
	buf, err := blk.Alloc(int(min(stageRead, s.StageBytes)))
	if err != nil {
		return err
	}
	defer blk.Free(buf)
	for end := s.Start.Pos; l.stage.at < end; {
		b := buf[:min(int64(len(buf)), int64(end-l.stage.at))]
		if err := blk.Do(l.dev, &blk.Request{Op: blk.Read, Offset: l.DeviceOffset(l.stage.at), Length: int64(len(b)), Buf: b}, drive); err != nil {
			return fmt.Errorf("%w: stage: %w", ErrReadError, err)
		}
		l.recoveryBytes += int64(len(b))
		took, more := l.takeStaged(b, o.Staged)
		if l.stage.at += Pos(took); !more || took == 0 {
			break
		}
	}
	if l.stage.count < s.StageBlocks && s.Marks&Staging == 0 {
		return fmt.Errorf("%w: block %d of a sync was durable, and is damaged", ErrCorrupt, l.stage.count)
	}
	return nil
}

// takeStaged counts the blocks that b begins with; more says that b's end ended them.
func (l *Log) takeStaged(b []byte, visit func(Staged)) (took int64, more bool) {
	for {
		s, n, short, ok := l.ParseStaged(b[took:], l.stage.count)
		if !ok {
			return took, short
		}
		if visit != nil {
			visit(s)
		}
		took += n
		l.stage.count++
	}
}

// StageDamaged reports whether blocks of a generation that is not visible are missing: it is worth nothing.
func (l *Log) StageDamaged() bool { return l.Staging() && l.stage.count < l.super.StageBlocks }
