package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// refill fills a new data disk from the peer's copy while the volume is remote: one pass, block by
// block. A block is asked for no older than the newest segment sealed then, and until it is on the
// disk nothing newer is destaged: what destage brings afterwards is newer than the block, so the
// client need not wait for either. What came may be newer than what is durable here: it is written
// only when the log here has it durably, or a power cut could leave there what neither log knows.
type refill struct {
	n      *Node
	active bool
	at     int64 // all before it is on the disk
	said   int64 // and, durably, good
	buf    []byte
	req    blk.Request
	state  fillState
	back   bool       // the request came back
	from   seglog.LSN // newest segment when the block was asked for
	upTo   seglog.LSN // and when the newest block came
	begun  int64      // when the request in flight was
	block  int64      // when the block in hand was begun
	rest   int64      // the next one begins then: the client goes first
	steps  uint64     // requests that came back
	begin  uint64     // ticket of the superblock that says that a refill has begun
	asked  bool       // the peer shall not take this side for one in need any more
	gone   bool       // and does not
	ticket uint64     // of the superblock that says that the disk is good
}

type fillState uint8

const (
	fillIdle fillState = iota
	fillAsked
	fillWriting
	fillFlushing
)

// Complete records that the peer has answered, or the disk.
func (x *refill) Complete(*blk.Request) {
	x.back = true
	x.steps++
	if x.state == fillAsked {
		x.upTo = x.n.log.Sealed()
	}
}

// start begins, or goes on, with a disk that is good up to off once the superblock's ticket is durable.
func (x *refill) start(off int64, ticket uint64) error {
	if x.state != fillIdle {
		return errors.New("what the last refill has under way has not ended")
	}
	if x.buf == nil {
		b, err := blk.Alloc(syncBytes)
		if err != nil {
			return err
		}
		x.buf = b
	}
	x.active, x.at, x.said, x.begin, x.ticket, x.asked, x.gone = true, off, off, ticket, 0, false, false
	x.n.event("disk", "lost", "filled from the peer", fmt.Sprintf("from byte %d of %d on", off, x.n.cache.Info().SizeBytes))
	return nil
}

// limit is the newest segment that may be destaged beside the block in hand.
func (x *refill) limit() seglog.LSN {
	if x.active && x.state != fillIdle && x.state != fillFlushing && !(Planted && Plant == "refill-no-limit") {
		return x.from
	}
	return unlimited
}

// kick goes on with the next step.
func (x *refill) kick() (wake int64) {
	wake = blk.Never
	n := x.n
	if x.back {
		x.back = false
		x.came()
	}
	if !x.active {
		return wake
	}
	if err := firstErr(n.cache.Lost()); err != nil {
		x.fail(err)
		return wake
	}
	switch x.state {
	case fillIdle:
		return x.next()
	case fillWriting, fillFlushing:
		wake = x.begun + n.cache.DiskDeadline() + 1
		if n.now.Mono >= wake {
			x.fail(fmt.Errorf("the new data disk did not answer within %s", seconds(n.cache.DiskDeadline())))
			return blk.Never
		}
	}
	return wake
}

// next asks for the next block, or makes durable what there is.
func (x *refill) next() (wake int64) {
	n, size := x.n, x.n.cache.Info().SizeBytes
	now := n.now.Mono
	switch {
	case n.log.Updated() < x.begin:
	case x.at > x.said && (x.at == size || x.at-x.said >= n.o.Sync.Step):
		if n.log.Durable() < x.upTo && !(Planted && Plant == "refill-unlogged") {
			return blk.Never
		}
		x.below(fillFlushing, blk.Flush, 0)
	case x.at == size:
		x.finish()
	case !n.peer.may() || n.resyncPaused:
	case now < x.rest:
		return x.rest
	default:
		k := min(n.o.Sync.Block, syncBytes, size-x.at)
		x.state, x.from, x.begun, x.block = fillAsked, n.log.Sealed(), now, now
		x.req = blk.Request{Op: blk.Read, Offset: x.at, Length: k, Buf: x.buf[:k], LSN: x.from, Owner: x}
		n.peer.Submit(&x.req)
		if Planted && Plant == "refill-early" {
			n.cache.Filled(x.at + k)
		}
	}
	return blk.Never
}

// below gives the disk what is in the buffer, or a flush, between two destage batches.
func (x *refill) below(s fillState, op blk.Op, length int64) {
	x.state, x.begun = s, x.n.now.Mono
	x.req = blk.Request{Op: op, Offset: x.at, Length: length, Buf: x.buf[:length], Owner: x}
	if op == blk.Flush {
		x.req.Offset, x.req.Buf = 0, nil
	}
	x.n.writeBelow(&x.req, op == blk.Write && wire.IsZero(x.req.Buf))
}

// came follows up on the request that came back.
func (x *refill) came() {
	n, was := x.n, x.state
	x.state = fillIdle
	switch {
	case !x.active:
	case x.req.Err != 0 && was == fillAsked: // the peer is away: asked again when it is back
	case x.req.Err != 0:
		x.fail(fmt.Errorf("fill the new data disk: %w", x.req.Err))
	case was == fillAsked:
		x.below(fillWriting, blk.Write, x.req.Length)
	case was == fillWriting:
		x.at += x.req.Length
		n.cache.Filled(x.at)
		if Planted && Plant == "refill-said-early" {
			n.log.Update(func(s *seglog.Super) { s.Refilled = x.at })
		}
		if n.now.Mono-n.cache.LastIO() < clientBusy {
			x.rest = n.now.Mono + min(n.now.Mono-x.block, second) // half of the time is the client's alone
		}
	case was == fillFlushing:
		x.said = x.at
		n.log.Update(func(s *seglog.Super) { s.Refilled = x.said })
	}
}

// fail gives the new disk up.
func (x *refill) fail(err error) {
	x.active = false
	x.n.cache.LoseData(err)
	x.n.event("disk", "filled from the peer", "lost", err.Error())
	x.n.log.Update(needRefill)
}

// finish: everything is on the disk, durably. The peer forgets, durably, that this side relies on
// it, then this side does: were it the other way, a crash between the two would make it fill a good
// disk again.
func (x *refill) finish() {
	n := x.n
	switch {
	case x.ticket > 0:
		if n.log.Updated() >= x.ticket {
			x.active = false
			n.live()
		}
	case x.gone:
		x.ticket = n.log.Update(func(s *seglog.Super) {
			s.Marks &^= seglog.NeedsRefill
			s.Incompat &^= seglog.Refills
			if n.o.Mode.ahead() {
				s.Marks |= seglog.Ahead
			}
		})
	case n.s.up && !x.asked:
		x.asked = n.sayMark(wire.FactRefilled)
	}
}

func (x *refill) close() error {
	err := blk.Free(x.buf)
	x.buf = nil
	return err
}

// needRefill says that the data disk here is not good, and that nothing fills it.
func needRefill(s *seglog.Super) {
	s.Marks |= seglog.NeedsRefill
	s.Incompat |= seglog.Refills
	s.Refilled = -1
}

// live ends the remote state: disk and log here are the volume again.
func (n *Node) live() {
	n.remoteMode, n.o.Lost = false, false
	n.cache.Whole()
	n.cache.SetRemote(false)
	if n.remoteDown > 0 {
		n.remoteDown = 0
		n.cache.Refuse(false)
	}
	n.event("volume", "remote", "live", "the new data disk holds everything")
	if n.s.up {
		n.bound, n.boundAt = true, n.log.Durable()
		n.limitBound()
		return
	}
	n.unbind(n.s.lastErr)
}

// Replace makes the peer stand in for the data disk, so that another one can take its place;
// Replaceable says when that is so. The old disk is then used no more.
func (n *Node) Replace() error {
	data, log := n.cache.Lost()
	switch {
	case !n.primary:
		return errors.New("this is a secondary: `del --force` it here and `serve` it anew on the new disk")
	case !n.hasPeer():
		return errors.New("the volume has no second machine that could fill a new disk")
	case log != nil || n.log.Device() == nil:
		return errors.New("the log is lost, too: nothing here would know how far the new disk is")
	case n.draining:
		return errors.New("the volume is being ended")
	case n.fill.active:
		return fmt.Errorf("a new disk is being filled already: %d of %d bytes", n.fill.at, n.cache.Info().SizeBytes)
	case n.remoteMode && data == nil && n.cache.Data() != nil:
		return errors.New("the data disk is not lost")
	case !n.remoteMode && !n.inSync():
		return fmt.Errorf("the peer is not in sync (%s), and only it could stand in for the disk", n.state)
	}
	n.replace = !n.remoteMode
	return nil
}

// KeepDisk takes Replace back, if it is not too late.
func (n *Node) KeepDisk() { n.replace = false }

// Replaceable reports whether the peer stands in, durably, and nothing is on its way to the old disk.
func (n *Node) Replaceable() bool {
	data, _ := n.cache.Lost()
	return n.remoteMode && (data != nil || n.cache.Data() == nil) && n.log.Updated() >= n.lostTicket && n.cache.DataQuiet() && n.fill.state == fillIdle
}

// Refill puts an empty disk in the lost one's place and fills it from the peer.
func (n *Node) Refill(dev blk.Device) error {
	if !n.Replaceable() || n.fill.active {
		return errors.New("the old data disk cannot be replaced now")
	}
	ticket, err := n.cache.ReplaceData(dev)
	if err != nil {
		return err
	}
	return n.fill.start(0, ticket)
}

// The log cannot be exchanged under a running node as the data disk can: the next node begins with the
// new one, at the point where everything is on both data disks. So the steps are the caller's, in this
// order: HoldForLog, LogPoint, a log that begins there, Forgo, and then the end of this node.

// LogLost says why the log cannot be replaced, nil when it is lost and can be.
func (n *Node) LogLost() error {
	_, log := n.cache.Lost()
	switch {
	case !n.primary:
		return errors.New("this is a secondary: `del --force` it here and `serve` it anew with the new log")
	case !n.remoteMode || log == nil && n.log.Device() != nil:
		return fmt.Errorf("the log is not lost (the volume is %s)", n.state)
	}
	return nil
}

// HoldForLog keeps requests from being answered, so that LogPoint comes to a rest, or lets them go on.
func (n *Node) HoldForLog(on bool) error {
	if err := n.LogLost(); on && err != nil {
		return err
	}
	n.cache.Hold(on)
	return nil
}

// LogPoint is where a new log begins: everything before it is durable at the peer and, unless the data
// disk is lost, too, on that. super is what the log that was lost would say. False: not yet.
func (n *Node) LogPoint() (super seglog.Super, ok bool) {
	data, _ := n.cache.Lost()
	lost := data != nil || n.cache.Data() == nil
	if !n.s.up || n.s.tail || n.ship.durable < n.log.Sealed() || n.cache.Busy() || !lost && n.cache.Dirty() > 0 {
		return super, false
	}
	super = *n.log.Super()
	h, _ := n.log.Hash(n.log.Sealed())
	super.Start = seglog.Point{LSN: n.log.Sealed() + 1, PrevHash: h}
	super.Marks = seglog.HasPeer
	if n.o.Mode.ahead() {
		super.Marks |= seglog.Ahead
	}
	if super.Incompat &^= seglog.Refills; lost {
		needRefill(&super)
	}
	return super, true
}

// Forgo makes the peer forget that this side relies on it, and reports whether it has, durably. With a
// data disk that is lost it goes on remembering.
func (n *Node) Forgo() bool {
	if data, _ := n.cache.Lost(); data != nil || n.cache.Data() == nil {
		return true
	}
	if !n.fill.gone && !n.fill.asked && n.s.up {
		n.fill.asked = n.sayMark(wire.FactRefilled)
	}
	return n.fill.gone
}

// Remember takes a Forgo back.
func (n *Node) Remember() {
	if n.fill.asked, n.fill.gone = false, false; n.s.up {
		n.sayMark(wire.FactRefill)
	}
}
