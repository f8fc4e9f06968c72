package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Flags of an Ack.
const ackWhole = 1 // the full sync is complete and durable

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
	flushing bool
	flushed  bool
	flush    blk.Request
	ticket   uint64 // of the superblock that says consistent
	whole    bool   // to be told
	ending   bool
	endDone  bool

	prepare  *wire.DecisionMsg // a map sync that begins once everything older is on the disk
	term     seglog.Term       // with which
	since    int64             // bytes of blocks since what was said to be durable
	upTo     int64             // end of the last block
	pausing  bool              // the disk is flushed before more is taken
	progress int64             // to be told; 0: nothing

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
		x.n.Fail(fmt.Errorf("full sync: write the data disk: %w", r.Err))
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
	if x.prepare != nil || x.pausing {
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

// agree prepares for what the primary decided; it may wait for disks.
func (x *receiver) agree(f *wire.Frame, d *wire.DecisionMsg) error {
	n := x.n
	x.told, x.toldRecv, x.isHeld, x.ended, x.whole = 0, 0, false, false, false
	term := seglog.Term{Number: f.Term.Number, ID: f.Term.ID}
	switch d.Way {
	case wire.FullSync, wire.MapSync:
		switch {
		case d.Resume:
			return x.resumeSync(d)
		case d.Way == wire.FullSync:
			return x.beginSync(d, term)
		}
		// The log ends here: what it holds must be on the disk before it is given up. All of it is
		// on the primary's chain.
		c := *d
		x.prepare, x.term = &c, term
		x.declare(n.log.Sealed())
		n.cache.DestageAll(true)
		return nil
	case wire.TakeTail:
		return n.ship.from(d.At.LSN, d.At.LSN)
	}
	x.syncing = false
	if n.marks()&seglog.Inconsistent != 0 {
		return errors.New("this copy is incomplete, and the primary wants to stream")
	}
	if d.Cut && d.At.LSN < n.log.Sealed() {
		if err := x.cut(d.At.LSN); err != nil {
			return err
		}
	}
	if n.log.Sealed() != d.At.LSN {
		return fmt.Errorf("the primary streams from LSN %d, this log ends at %d", d.At.LSN, n.log.Sealed())
	}
	n.ship.close()
	const own = seglog.Demoted | seglog.Ahead | seglog.Degraded | seglog.HasPeer
	if n.log.Super().Term != term || n.marks()&own != 0 {
		return n.log.Sync(n.log.Update(func(s *seglog.Super) {
			s.Term = term
			s.Marks &^= own
		}), n.o.Drive)
	}
	return nil
}

// keep hands the segments after lsn to whoever keeps what is given up.
func (x *receiver) keep(lsn seglog.LSN) error {
	n := x.n
	if n.o.Keep == nil || lsn >= n.log.Sealed() {
		return nil
	}
	var failed error
	bad, err := n.log.Scan("keep", lsn, n.o.Drive, func(s *seglog.Segment) {
		if failed == nil {
			failed = n.o.Keep(s.Raw)
		}
	})
	if failed == nil {
		failed = n.o.Keep(nil)
	}
	if bad != nil {
		n.event("log", "", "part of what is given up cannot be read, and kept", bad.Error())
	}
	if failed != nil {
		failed = fmt.Errorf("keep what is given up: %w", failed)
	}
	return errors.Join(failed, err)
}

// cut removes a tail that was never acknowledged, durably, after it was kept aside.
func (x *receiver) cut(after seglog.LSN) error {
	n := x.n
	n.event("log", fmt.Sprintf("LSN %d", n.log.Sealed()), fmt.Sprintf("LSN %d", after), "the primary never had the tail, and it was never acknowledged")
	if err := x.quiet(); err != nil {
		return err
	}
	if err := x.keep(after); err != nil {
		n.event("log", "", "what is cut is not kept", err.Error()) // nobody was told that it was written
	}
	return n.cache.Cut(after, n.o.Drive)
}

// quiet waits until nothing of the cache's is on its way to a disk.
func (x *receiver) quiet() error {
	n := x.n
	n.cache.HoldDestage(true)
	defer n.cache.HoldDestage(false)
	for n.cache.Busy() {
		now, err := n.o.Drive()
		if err != nil {
			return err
		}
		n.cache.Kick(now)
	}
	return nil
}

// resumeSync goes on with a sync that was interrupted.
func (x *receiver) resumeSync(d *wire.DecisionMsg) error {
	n := x.n
	if n.marks()&seglog.Inconsistent == 0 || n.log.Sealed() != d.At.LSN {
		return fmt.Errorf("the primary goes on with a sync at LSN %d, this log ends at %d (%v)", d.At.LSN, n.log.Sealed(), n.marks())
	}
	if err := x.quiet(); err != nil {
		return err
	}
	n.ship.close()
	x.begin()
	return x.memory()
}

func (x *receiver) begin() {
	x.syncing, x.flushed, x.ticket, x.since, x.upTo, x.pausing, x.progress = true, false, 0, 0, 0, false, 0
}

func (x *receiver) memory() (err error) {
	if x.mem == nil {
		x.mem, err = blk.Alloc(resyncSlots * syncBytes)
	}
	return err
}

// beginSync makes this copy durably inconsistent before anything of it is replaced.
func (x *receiver) beginSync(d *wire.DecisionMsg, term seglog.Term) error {
	n := x.n
	if err := x.quiet(); err != nil {
		return err
	}
	if err := x.memory(); err != nil {
		return err
	}
	if n.o.Discard || n.marks()&seglog.NeedsRefill != 0 {
		n.event("log", fmt.Sprintf("LSN %d", n.log.Sealed()), fmt.Sprintf("LSN %d", d.Common), "what only this side has is given up, by the user's word or because its disk missed writes")
		if err := x.keep(d.Common); err != nil {
			return err
		}
		n.o.Discard = false
	}
	n.ship.close()
	x.begin()
	mark := seglog.Inconsistent
	if Planted && Plant == "no-inconsistent" {
		mark = 0
	}
	return n.cache.Reset(seglog.Point{LSN: d.At.LSN + 1, PrevHash: d.At.Hash}, func(s *seglog.Super) {
		s.Marks = mark
		s.Incompat &^= seglog.Refills
		s.Volume, s.Term = d.Volume, term
		s.Fingerprint = [seglog.FingerprintSectors]uint64{}
	}, n.o.Drive)
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
		x.hold(f)
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
	x.out++
	s.Op, s.Offset, s.Length, s.Buf, s.Owner = blk.Write, r.Offset, r.Length, b, x
	n.cache.Below(&s.Request)
	x.came(&r)
}

// slot takes a free slot with room for length bytes; nil: all are in use.
func (x *receiver) slot(length int64) (*resyncSlot, []byte) {
	for i := range x.slots {
		if s := &x.slots[i]; !s.busy {
			s.busy, s.comparing = true, false
			return s, x.mem[i*syncBytes:][:length:length]
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

// prepareSync begins a map sync once the log holds nothing that the disk lacks.
func (x *receiver) prepareSync() {
	if x.prepare == nil || x.n.cache.Dirty() > 0 || x.n.cache.Busy() {
		return
	}
	d := x.prepare
	x.prepare = nil
	x.n.cache.DestageAll(false)
	if err := x.beginSync(d, x.term); err != nil {
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

// flushDisk flushes the data disk, unless that is under way.
func (x *receiver) flushDisk() {
	if !x.flushing {
		x.flushing = true
		x.flush.Op, x.flush.Owner = blk.Flush, x
		x.n.cache.Below(&x.flush)
	}
}

// reached is told that all blocks up to upTo are durable.
func (x *receiver) reached() { x.pausing, x.since, x.progress = false, 0, x.upTo }

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
	case !x.syncing || !x.ended || x.pausing || x.out > 0 || x.isHeld || n.log.Durable() < x.endAt:
	case !x.flushed:
		x.flushDisk()
	case x.ticket == 0:
		if err := x.fingerprint(); err != nil {
			n.Fail(err)
			return
		}
		x.ticket = n.log.Update(func(s *seglog.Super) { s.Marks &^= seglog.Inconsistent })
	case n.log.Updated() >= x.ticket:
		x.ticket, x.syncing, x.ended, x.whole = 0, false, false, true
		n.event("copy", "inconsistent", "consistent", fmt.Sprintf("the full sync is complete at LSN %d", n.log.Durable()))
	}
}

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
	if d == x.told && !x.whole && (r == x.toldRecv || n.o.Mode != SemiSync) {
		return // what is only received nobody waits for
	}
	f := n.frameOf(wire.Ack)
	f.LSN, f.Durable = r, d
	if x.whole {
		f.Flags = ackWhole
	}
	if n.s.conn.Send(f) {
		x.told, x.toldRecv, x.whole = d, r, false
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
