package mirror

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// syncBytes bounds the blocks of a sync.
const syncBytes = DefaultSyncBlock

// fullSync is the primary's side: one pass over what the dirty map says, for a new peer everything,
// each block at its place in the stream.
// From before a block is read until it is sent, writes over it wait: what is read is the state
// at the newest sealed segment, it is sent after that one, and nothing that changes it goes between.
// So with a block's hashes, where the peer may have it already: it answers for its state at that place
// of the stream. What is equal then is equal for good, for what changes either side later comes in the
// stream; what differs is read again and sent, at a place of its own.
type fullSync struct {
	n       *Node
	active  bool
	next    int64 // offset from which the map is looked through for the next block
	buf     []byte
	req     blk.Request
	reading bool
	have    bool       // a block is read and not yet sent
	hashing bool       // it goes as its hashes
	hashed  int        // pieces of it
	after   seglog.LSN // the segment after which it has its place
	endSent bool
	sent    int64
	skipped int64      // equal at the peer
	left    int64      // to be sent, or found equal
	at      seglog.LSN // where the peer's chain goes on
	from    int64      // when the block in hand was begun
	rest    int64      // the next one begins then: the client goes first

	compares
}

// begin starts a sync at the newest sealed segment: the peer's log goes on after it. all: the peer
// has nothing of use; else the dirty map says what it lacks.
func (s *fullSync) begin(all bool) (wire.Point, error) {
	if err := s.ready(); err != nil {
		return wire.Point{}, err
	}
	n, d := s.n, s.n.log.Dirty()
	var ticket uint64 // of the superblock that says what is lacked
	at := n.log.Sealed()
	h, _ := n.log.Hash(at)
	if all {
		n.log.Update(func(x *seglog.Super) { x.Marks |= seglog.PeerNeedsFullSync })
		ticket = d.Begin(seglog.Point{LSN: at, PrevHash: h})
		d.MarkAll()
	} else {
		if !d.Active() { // a new peer that is taken for equal as of the log's beginning
			d.Begin(seglog.Point{})
		}
		// What the log holds beyond the peer's end is given up for it: it goes by the map, too.
		if err := s.addLog(); err != nil {
			return wire.Point{}, err
		}
		d.Point(seglog.Point{LSN: at, PrevHash: h})
		ticket = n.log.Update(func(*seglog.Super) {})
	}
	d.SetResume(at, 0)
	s.compare = s.pays(all || !n.s.hello.New && seglog.Marks(n.s.hello.Marks)&seglog.Inconsistent != 0)
	// Only now may the log give up what the map has to say.
	for n.log.Kick(n.now); !d.Durable() || n.log.Updated() < ticket; n.log.Kick(n.now) {
		if err := n.log.Err(); err != nil {
			return wire.Point{}, err
		}
		var err error
		if n.now, err = n.o.Drive(); err != nil {
			return wire.Point{}, err
		}
	}
	n.ship.close()
	if err := n.ship.from(at, at); err != nil {
		return wire.Point{}, err
	}
	s.start(at, 0)
	return wire.Point{LSN: at, Hash: h}, nil
}

// resume goes on with a sync that was interrupted: the peer is at lsn of this chain.
func (s *fullSync) resume(lsn seglog.LSN) error {
	if err := s.ready(); err != nil {
		return err
	}
	at, off := s.n.log.Dirty().Resume()
	if err := s.n.ship.from(lsn, s.n.s.durable); err != nil {
		return err
	}
	s.compare = s.pays(true)
	s.start(at, off)
	return nil
}

func (s *fullSync) ready() (err error) {
	if s.reading {
		return errors.New("the last sync's read has not ended")
	}
	if s.buf == nil {
		s.buf, err = blk.Alloc(wire.RangeBytes + syncBytes + 4096)
	}
	return err
}

func (s *fullSync) start(at seglog.LSN, next int64) {
	s.active, s.at, s.next, s.have, s.endSent, s.sent, s.skipped, s.rest = true, at, next, false, false, 0, 0, 0
	s.forget()
	s.left = s.n.log.Dirty().BytesFrom(next)
}

// addLog enters what is in the log into the map, as far as the map does not have it: a sync starts at the newest segment.
func (s *fullSync) addLog() error {
	n, d := s.n, s.n.log.Dirty()
	if Planted && Plant == "map-no-log" {
		return nil
	}
	return errors.Join(n.log.Scan("map", n.log.First()-1, n.o.Drive, d.MarkSegment))
}

// data is where blocks are read to: aligned, with room for the range in front.
func (s *fullSync) data() []byte { return s.buf[4096 : 4096+syncBytes] }

// Complete records that a block was read.
func (s *fullSync) Complete(r *blk.Request) {
	s.reading = false
	s.have = true
	if r.Replaced(s.data()) {
		// The disk hangs and may still write to the buffer. What came instead is not where send
		// takes it from.
		s.buf, r.Err = nil, syscall.EIO
	}
}

// kick reads the next block, when the last one is on its way.
func (s *fullSync) kick() (wake int64) {
	n := s.n
	wake = blk.Never
	if s.have && !s.reading && s.req.Err != 0 && s.active {
		s.have = false
		n.cache.UnlockRange()
		n.s.lost(fmt.Errorf("sync: read [%d, +%d): %w", s.req.Offset, s.req.Length, s.req.Err))
		return wake
	}
	if s.have && !s.reading && s.active && s.hashing && s.hash() {
		return n.now.Mono
	}
	if !s.active || s.reading || s.have || !n.s.up || n.resyncPaused || !n.pace.may(n.now.Mono) {
		return wake
	}
	if n.now.Mono < s.rest {
		return s.rest
	}
	off, k := s.pick()
	if k == 0 {
		return wake
	}
	s.after, s.from = n.log.Sealed(), n.now.Mono
	if !(Planted && Plant == "no-lock") {
		n.cache.LockRange(off, k)
	}
	s.req = blk.Request{Op: blk.Read, Offset: off, Length: k, Buf: s.data()[:k], Owner: s}
	s.reading = true
	if Planted && Plant == "hash-under-log" && s.hashing {
		n.cache.Below(&s.req)
		return wake
	}
	n.cache.Submit(&s.req)
	return wake
}

// pick says what is read next: what the peer has said differs goes first.
func (s *fullSync) pick() (off, k int64) {
	n, size := s.n, s.n.cache.Info().SizeBytes
	if off, k = s.differing(); k > 0 {
		s.hashing = false
		return off, k
	}
	if s.next >= size || s.compare && s.free() == nil {
		return 0, 0
	}
	off, k = n.log.Dirty().Next(s.next, min(n.o.Sync.Block, syncBytes))
	if s.next = off + k; k == 0 {
		s.next = size
		n.s.frames++ // the end may be due
		return 0, 0
	}
	if s.hashing = s.compare && s.asks(); s.hashing {
		s.ask(off, k)
	}
	return off, k
}

// done is the offset before which nothing is left to do; inHand: once the block in hand was sent.
func (s *fullSync) done(inHand bool) int64 {
	off := s.next
	if (s.have || s.reading) && !inHand {
		off = min(off, s.req.Offset)
	}
	return s.oldest(off)
}

// due reports whether the block that was read has its place right here: nothing of the log goes
// before it, or a limited or full connection would never come to it.
func (s *fullSync) due() bool { return s.active && s.whenHashed() && s.n.ship.to >= s.after }

// whenHashed reports whether a block is in hand, with its hashes if it goes as these.
func (s *fullSync) whenHashed() bool {
	return s.have && (!s.hashing || s.hashed == s.pieces(s.req.Length))
}

// send sends the block that was read, once everything sealed before it was sent, and the end.
func (s *fullSync) send() {
	n := s.n
	if !s.active || !n.s.up || s.reading {
		return
	}
	switch {
	case s.whenHashed() && n.ship.to >= s.after && n.log.Durable() >= s.after:
		// Durable, because a block is not sent again when the sync goes on after a power cut here.
		if !n.pace.may(n.now.Mono) || !s.sendBlock() {
			return
		}
		// Only now: a write over the range that went ahead of the block would be undone by it.
		n.cache.UnlockRange()
		s.have = false
		if n.now.Mono-n.cache.LastIO() < clientBusy {
			s.rest = n.now.Mono + min(n.now.Mono-s.from, second) // half of the time is the client's alone
		}
		n.s.frames++ // the next read begins in the next kick, at once
	case !s.have && s.next >= n.cache.Info().SizeBytes && !s.waits() && !s.endSent && n.ship.to >= n.log.Sealed():
		f := n.frameOf(wire.ResyncEnd)
		s.endSent = n.s.conn.Send(f)
	}
}

// sendBlock sends the block in hand, or its hashes; false: there is no room.
func (s *fullSync) sendBlock() bool {
	n := s.n
	if s.hashing {
		return s.sendHashes()
	}
	r := wire.Range{ID: uint64(s.done(true)), Offset: s.req.Offset, Length: s.req.Length, Zero: wire.IsZero(s.req.Buf)}
	f := n.frameOf(wire.Resync)
	f.Body = s.buf[4096-wire.RangeBytes : 4096+s.req.Length]
	if r.Zero {
		f.Body = f.Body[:wire.RangeBytes]
	}
	r.Put(f.Body)
	if !n.sendData(f, wire.PackKey{Kind: f.Kind, A: uint64(s.req.Offset), B: s.after}, wire.RangeBytes) {
		return false
	}
	s.sent += s.req.Length
	n.resync.Sent += uint64(s.req.Length)
	s.left = max(s.left-s.req.Length, 0)
	return true
}

// clientBusy is how recently the client must have had a request in flight for a sync to yield to it, in ns.
const clientBusy = 2_000_000

// reached is told that the peer has everything up to off durably.
func (s *fullSync) reached(off int64) {
	if s.active {
		s.n.log.Dirty().SetResume(s.at, min(off, s.done(false)))
	}
}

// whole is told when the peer's copy is complete and durable.
func (s *fullSync) whole() {
	if !s.active || !s.endSent {
		return
	}
	n := s.n
	s.active = false
	n.log.Update(func(x *seglog.Super) { x.Marks &^= seglog.PeerNeedsFullSync | seglog.AssumedClean })
	n.mapEnds()
	n.event("full sync", "running", "complete", fmt.Sprintf("%d bytes sent, %d equal at the peer", s.sent, s.skipped))
}

// mapEnds gives the dirty map up: the peer lacks nothing of what it says.
func (n *Node) mapEnds() {
	n.clearing = n.log.Dirty().End()
	n.safeAt = n.clearing
}

// lost interrupts a sync: the log is held from where the peer is, so that the next session goes on.
func (s *fullSync) lost() {
	s.active, s.endSent = false, false
	if !s.reading {
		s.have = false
		s.n.cache.UnlockRange()
	}
}

func (s *fullSync) close() error {
	err := blk.Free(s.buf)
	s.buf = nil
	return err
}
