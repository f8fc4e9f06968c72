package seglog

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// supers writes superblocks: one at a time, into the slots by turns.
type supers struct {
	buf     []byte
	req     blk.Request
	busy    bool
	done    bool
	ticket  uint64 // of the newest change
	writing uint64 // what the write in flight covers
	durable uint64
	start   Pos // below which nothing is needed, as the write in flight says
	slot    int64
	at      int64 // when the write in flight began
}

// Complete records the end of a superblock write.
func (s *supers) Complete(*blk.Request) { s.busy, s.done = false, true }

func (s *supers) lose() { s.durable, s.done, s.busy = s.ticket, false, false }

// Update changes the superblock. The change is in memory at once, and durable when Updated
// has reached the ticket.
func (l *Log) Update(f func(s *Super)) (ticket uint64) {
	f(&l.super)
	l.sup.ticket++
	if l.dev == nil || Planted && Plant == "super-early" {
		l.sup.durable = l.sup.ticket
	}
	return l.sup.ticket
}

// Updated is the ticket up to which changes are durable.
func (l *Log) Updated() uint64 { return l.sup.durable }

func (l *Log) kickSuper() {
	s := &l.sup
	if s.done {
		s.done = false
		switch {
		case s.req.Err == 0:
			s.durable = max(s.durable, s.writing)
			l.rec.durable = max(l.rec.durable, s.start)
		case l.failed == nil:
			l.failed = fmt.Errorf("seglog: superblock: %w", s.req.Err)
		}
	}
	if l.dev == nil {
		l.rec.durable = l.super.tail()
		return
	}
	if s.busy || s.writing == s.ticket || l.failed != nil {
		return
	}
	l.super.Seq++
	l.super.Declared = max(l.super.Declared, l.durable)
	encodeSuper(s.buf, &l.super)
	s.slot = 1 - s.slot
	s.writing, s.start, s.busy, s.at = s.ticket, l.super.tail(), true, l.now
	s.req = blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: s.slot * slotBytes, Length: slotBytes, Buf: s.buf, Owner: s}
	l.dev.Submit(&s.req)
}

// Send is the part of Kick that sends what was sealed, or changed, since.
func (l *Log) Send() {
	l.push()
	if l.sup.writing != l.sup.ticket {
		l.kickSuper()
	}
}

// SuperWrites is how often the superblock was written, durably, since the log was made; Probe gives the same number, or more.
func (l *Log) SuperWrites() uint64 {
	if l.sup.busy || l.sup.done {
		return l.super.Seq - 1
	}
	return l.super.Seq
}

// reclaim is the way of space from released to reusable: released by every reader, the new
// recovery start durable, and no read of the old contents in flight.
type reclaim struct {
	durable Pos    // of the recovery start, or of the stage in front of it, that is durable
	free    Pos    // everything below may be overwritten
	next    Pos    // becomes free when the old epoch's reads have ended; 0: none
	epoch   uint8  // of new reads
	pins    [2]int // reads in flight by epoch
	wanted  bool   // somebody waits for space
	trim    bool   // asked to advance as far as possible
}

// Pin holds back the reuse of everything retained now, for a read of the log device that the
// caller submits itself. Constant reading cannot starve reuse: pins have two generations.
func (l *Log) Pin() (token uint8) {
	l.rec.pins[l.rec.epoch]++
	return l.rec.epoch
}

// Unpin ends a Pin.
func (l *Log) Unpin(token uint8) { l.rec.pins[token]-- }

// Trim advances the recovery start as far as the readers allow, without waiting for need.
func (l *Log) Trim() { l.rec.trim = true }

func (l *Log) reclaim() {
	if len(l.readers) == 0 {
		return // whoever opens the log has not said yet what is still needed
	}
	r := &l.rec
	upTo := l.durable
	for _, d := range l.readers {
		if !(Planted && Plant == "reuse-undestaged") {
			upTo = min(upTo, d.kept)
		}
	}
	if upTo >= l.super.Start.LSN {
		start := l.pointAfter(upTo)
		some := int64(start.Pos-l.super.Start.Pos) >= l.ringBytes()/16
		if some || r.wanted || r.trim {
			r.trim = false
			l.Update(func(s *Super) { s.Start = start })
			l.noteSummaries()
			if Planted && Plant == "reuse-early" {
				r.durable = start.Pos
			}
			l.kickSuper()
		}
	}
	switch {
	case r.next == 0 && r.durable > r.free:
		r.next = r.durable
		r.epoch = 1 - r.epoch
		fallthrough
	case r.next != 0:
		if r.pins[1-r.epoch] == 0 {
			l.forget(r.next)
			r.free, r.next, r.wanted = r.next, 0, false
		}
	}
}

// forget drops segments that lie wholly before p from the table.
func (l *Log) forget(p Pos) {
	for l.first <= l.sealed && l.info(l.first).pos < p {
		l.startHash = l.info(l.first).hash
		l.first++
	}
}

// pointAfter is the recovery start that keeps everything after lsn.
func (l *Log) pointAfter(lsn LSN) Point {
	if lsn == l.sealed {
		return Point{Pos: l.head, LSN: lsn + 1, PrevHash: l.hash}
	}
	h, _ := l.Hash(lsn)
	return Point{Pos: l.info(lsn + 1).pos, LSN: lsn + 1, PrevHash: h}
}
