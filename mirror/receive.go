package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Flags of an Ack.
const (
	ackWhole   = 1 // the full sync is complete and durable
	ackInPlace = 2 // it was staged, and goes on in place: the copy is inconsistent, durably
)

// resyncSlots is how many blocks of a full sync wait for the disk; then the stream is held.
const resyncSlots = 8

// receiver is the secondary's side of the stream; a starting primary uses it for its peer's tail.
type receiver struct {
	n        *Node
	held     wire.Frame // for which there was no room
	isHeld   bool
	told     seglog.LSN // durable LSN in the last Ack
	toldRecv seglog.LSN
	declared seglog.LSN
	syncing  bool
	ended    bool       // everything was sent
	endAt    seglog.LSN // and stands for the state at this LSN
	slots    [resyncSlots]resyncSlot
	out      int
	mem      []byte
	head     int64 // bytes in front of each block in it
	flushing bool
	flushed  bool
	flush    blk.Request
	ticket   uint64 // of the superblock that says consistent
	whole    bool   // to be told
	ending   bool
	endDone  bool

	prepare  *wire.DecisionMsg // a sync that begins once everything older is on the disk
	term     seglog.Term       // with which
	since    int64             // bytes of blocks since what was said to be durable
	upTo     int64             // end of the last block
	pausing  bool              // the disk is flushed before more is taken
	progress int64             // to be told; 0: nothing

	staged bool   // the sync goes to the log's stage
	giving string // why it shall go on in place; "": it shall not
	gaveUp uint64 // ticket of the superblock that says that it does, until the primary is told; 0: it need not be

	order []*resyncSlot // that are compared, oldest first
	reads uint64        // of them, that came back
}

// resyncSlot is a block on its way to the disk, or one that is compared.
type resyncSlot struct {
	blk.Request
	busy bool
	comparison
}

func (x *receiver) open() (err error) {
	for i := range x.slots {
		x.slots[i].Owner, x.slots[i].Tag = x, uint32(i)
	}
	x.flush.Owner, x.flush.Tag = x, resyncSlots
	return nil
}

func (x *receiver) close() error {
	err := blk.Free(x.mem)
	x.mem = nil
	return err
}

// Complete records that a block, or the flush, has reached the disk.
func (x *receiver) Complete(r *blk.Request) {
	if r.Err != 0 && r.Op != blk.Read {
		x.n.Fail(fmt.Errorf("full sync: write: %w", r.Err))
	}
	if r.Tag == resyncSlots {
		if x.flushing = false; x.pausing {
			x.reached()
		} else {
			x.flushed = true
		}
		return
	}
	if s := &x.slots[r.Tag]; s.comparing {
		x.wasRead(s)
	} else {
		s.busy = false
		x.out--
	}
}

// blocked reports whether a frame waits for room: nothing behind it is taken meanwhile.
func (x *receiver) blocked() bool {
	if x.n.s.waitsForReplacement() {
		return true
	}
	if x.prepare != nil || x.pausing || x.converts() {
		x.n.s.excuse()
		return true
	}
	if !x.isHeld {
		return false
	}
	x.isHeld = false
	f := x.held
	x.frame(&f)
	return x.isHeld
}

func (x *receiver) hold(f *wire.Frame) { x.held, x.isHeld = *f, true }

func (x *receiver) frame(f *wire.Frame) {
	switch {
	case f.Kind == wire.Segment:
		x.segment(f)
	case f.Kind == wire.Resync && x.syncing:
		x.resync(f)
	case f.Kind == wire.Compare && x.syncing:
		x.compare(f)
	case f.Kind == wire.ResyncEnd && x.syncing:
		x.ended, x.endAt = true, f.LSN
	default:
		x.n.s.lost(fmt.Errorf("unexpected frame of kind %d", f.Kind))
	}
}

func (x *receiver) segment(f *wire.Frame) {
	n := x.n
	if n.primary && !n.s.tail {
		n.s.lost(errors.New("a segment for a primary"))
		return
	}
	_, err := n.cache.Adopt(f.Body)
	switch {
	case err == nil:
	case errors.Is(err, seglog.ErrFull):
		if x.hold(f); x.staged && n.log.Durable() == n.log.Sealed() {
			x.giveUp("the log has no room for what is written meanwhile")
		}
		return
	default:
		n.s.lost(err)
		return
	}
	if n.primary {
		if n.log.Sealed() >= n.s.tailTo {
			n.tookTail()
		}
		return
	}
	x.declare(f.Durable)
}

// declare raises what may be destaged: what the primary said is durable there.
func (x *receiver) declare(lsn seglog.LSN) { x.declared = max(x.declared, lsn) }

// resync writes a block of a full sync under the log.
func (x *receiver) resync(f *wire.Frame) {
	n := x.n
	r, data, err := wire.ParseRange(f.Body, n.cache.Info().SizeBytes)
	if err != nil || r.Length > syncBytes || len(data) == 0 && !r.Zero {
		n.s.lost(fmt.Errorf("full sync: %w", errors.Join(err, wire.ErrBody)))
		return
	}
	s, b := x.slot(r.Length)
	if s == nil {
		x.hold(f)
		return
	}
	if r.Zero {
		clear(b)
	} else {
		copy(b, data)
	}
	s.Op, s.Offset, s.Length, s.Buf, s.Owner = blk.Write, r.Offset, r.Length, b, x
	if x.staged {
		s.Buf = x.slotMem(s)[x.head-n.log.StageUnit():]
		if !x.stage(f, s, r.Zero) {
			return
		}
	} else {
		n.writeBelow(&s.Request, r.Zero)
	}
	x.out++
	x.came(&r)
}

// writeBelow gives the data disk a block: where that is zeros, and the disk offers it, as a range to zero, which a disk
// that allocates what is written need not hold.
func (n *Node) writeBelow(r *blk.Request, zero bool) {
	if d := n.cache.Data(); zero && d != nil && d.Info().WriteZeroes {
		r.Op, r.Buf = blk.WriteZeroes, nil
	}
	n.cache.Below(r)
}

// slotMem is a slot's memory: room for a head, then for a block.
func (x *receiver) slotMem(s *resyncSlot) []byte {
	n := x.head + syncBytes
	return x.mem[int64(s.Tag)*n:][:n:n]
}

// slot takes a free slot with room for length bytes; nil: all are in use.
func (x *receiver) slot(length int64) (*resyncSlot, []byte) {
	for i := range x.slots {
		if s := &x.slots[i]; !s.busy {
			s.busy, s.comparing = true, false
			return s, x.slotMem(s)[x.head:][:length:length]
		}
	}
	return nil, nil
}

// came counts a block, or one that was compared: after some the disk is flushed. An equal one, too, may
// not be durable: an earlier session may have brought it, or it may be that of a sector under way then.
func (x *receiver) came(r *wire.Range) {
	x.upTo = r.Offset + r.Length
	if x.n.s.hello.Offered&wire.FeatureHash != 0 {
		x.upTo = int64(r.ID)
	}
	if x.since += r.Length; x.since >= x.n.o.Sync.Step {
		x.pausing = true
	}
}

// follow is the secondary's policy: destage what was declared, finish a full sync, end a chain.
func (x *receiver) follow() {
	n := x.n
	limit := max(x.declared, n.cache.Declared())
	if limit >= n.log.LastData() {
		limit = n.log.Sealed() // what is behind has no records: nobody need declare it
	}
	if n.cache.DestageLimit = min(limit, n.log.Sealed()); n.marks()&seglog.Demoted != 0 && x.prepare == nil && !n.draining && !(Planted && Plant == "demoted-destages") {
		n.untouched()
	}
	if Planted && Plant == "destage-undeclared" {
		n.cache.DestageLimit = n.log.Sealed()
	}
	x.prepareSync()
	x.give()
	x.step()
	x.finishSync()
	if err := firstErr(n.cache.Lost()); err != nil && n.failed == nil {
		n.s.goodbye("the secondary lost a disk: " + err.Error())
		n.s.lost(err)
		n.Fail(err)
	}
	if x.ending && !x.endDone && n.cache.Dirty() == 0 {
		x.endDone = true
		f := n.frameOf(wire.MarkDone)
		f.Flags = wire.FactEnd
		n.s.conn.Send(f)
	}
}

// prepareSync begins a sync once the log holds nothing that the disk lacks, but for a stage that it supersedes.
func (x *receiver) prepareSync() {
	if x.prepare == nil || x.giving != "" || x.n.cache.Busy() || x.n.cache.Dirty() > 0 && !(x.n.cache.Staging() && x.prepare.Stage) {
		return
	}
	d := x.prepare
	x.prepare = nil
	x.n.cache.DestageAll(false)
	begin := x.beginSync
	if d.Stage && x.n.log.Sealed() <= d.At.LSN {
		begin = x.beginStage
	}
	if err := begin(d, x.term); err != nil {
		x.n.s.lost(err)
	}
}

// step makes what has come durable, so that an interrupted sync can go on behind it.
func (x *receiver) step() {
	if Planted && Plant == "progress-early" && x.pausing {
		x.reached()
		return
	}
	if x.pausing && x.out == 0 {
		x.flushDisk()
	}
}

// flushDisk flushes the data disk, or the log's with a stage, unless that is under way.
func (x *receiver) flushDisk() {
	if x.flushing {
		return
	}
	x.flush.Op, x.flush.Owner, x.flushing = blk.Flush, x, true
	if x.staged {
		x.flushing = x.n.log.FlushStage(&x.flush)
	} else {
		x.n.cache.Below(&x.flush)
	}
}

// reached is told that all blocks up to upTo are durable.
func (x *receiver) reached() {
	x.pausing, x.since, x.progress = false, 0, x.upTo
	if x.staged {
		x.n.log.Update(func(s *seglog.Super) { s.StageBlocks = x.n.log.StagedBlocks() })
	}
}

func firstErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// finishSync: all blocks written and flushed, the log durable to the end point, then the mark
// goes durably, then the primary is told.
func (x *receiver) finishSync() {
	n := x.n
	switch {
	case !x.syncing || !x.ended || x.pausing || x.out > 0 || x.isHeld || n.log.Durable() < x.endAt || x.converts():
	case !x.flushed && !(Planted && Plant == "gen-visible-early" && x.staged):
		x.flushDisk()
	case x.ticket == 0 && x.staged:
		x.show()
	case x.ticket == 0:
		if err := x.fingerprint(); err != nil {
			n.Fail(err)
			return
		}
		x.ticket = n.log.Update(func(s *seglog.Super) { s.Marks &^= seglog.Inconsistent })
	case n.log.Updated() >= x.ticket:
		x.ticket, x.syncing, x.ended, x.whole = 0, false, false, true
		old := "inconsistent"
		if x.staged {
			old, x.staged = "staged", false
		}
		n.event("copy", old, "consistent", fmt.Sprintf("the full sync is complete at LSN %d", n.log.Durable()))
	}
}

// ackSegments is how many segments a secondary in async mode may hold durably and not have said so, while it appends more.
const ackSegments = 32

// ack tells the primary how far this copy is, once per batch, and only when it changed.
func (x *receiver) ack() {
	n := x.n
	if n.primary {
		return
	}
	if x.progress > 0 {
		var b [wire.RangeBytes]byte
		wire.Range{Offset: x.progress - blk.SectorBytes, Length: blk.SectorBytes}.Put(b[:]) // its end counts
		f := n.frameOf(wire.Progress)
		f.Body = b[:]
		if n.s.conn.Send(f) {
			x.progress = 0
		}
	}
	d, r := n.log.Durable(), n.log.Sealed()
	if Planted && Plant == "ack-received" {
		d = r
	}
	if d == x.told && !x.whole && !x.tellsInPlace() && (r == x.toldRecv || n.o.Mode != SemiSync) {
		return // what is only received nobody waits for
	}
	if n.o.Mode == Async && d < r && d-x.told < ackSegments && !x.whole && !x.tellsInPlace() {
		return // nor for this, and an append that is under way ends soon
	}
	f := n.frameOf(wire.Ack)
	f.LSN, f.Durable = r, d
	if x.whole {
		f.Flags = ackWhole
	}
	if x.tellsInPlace() {
		f.Flags |= ackInPlace
	}
	if n.s.conn.Send(f) {
		if x.told, x.toldRecv, x.whole = d, r, false; f.Flags&ackInPlace != 0 {
			x.gaveUp = 0
		}
	}
}

// lost forgets what belonged to the session.
func (x *receiver) lost() {
	x.isHeld, x.ended, x.whole, x.ending, x.endDone = false, false, false, false, false
	if x.ticket == 0 {
		x.syncing = false
	}
	if x.prepare != nil {
		x.prepare = nil
		x.n.cache.DestageAll(false)
	}
	x.forget()
	x.pausing, x.progress = false, 0 // a flush that ends later says nothing in the next session
}
