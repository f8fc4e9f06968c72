package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// agree prepares for what the primary decided; it may wait for disks.
func (x *receiver) agree(f *wire.Frame, d *wire.DecisionMsg) error {
	n := x.n
	x.told, x.toldRecv, x.isHeld, x.ended, x.whole = 0, 0, false, false, false
	term := seglog.Term{Number: f.Term.Number, ID: f.Term.ID}
	switch d.Way {
	case wire.FullSync, wire.MapSync:
		if d.Resume {
			return x.resumeSync(d)
		}
		if err := x.supersede(d); err != nil {
			return err
		}
		if d.Way == wire.FullSync && !d.Stage && !n.cache.Applying() {
			return x.beginSync(d, term)
		}
		// The log ends here: what it holds must be on the disk before it is given up. All of it is
		// on the primary's chain, or is what this copy stays until the sync is whole.
		c := *d
		x.prepare, x.term = &c, term
		x.declare(n.log.Sealed())
		n.cache.DestageAll(true)
		return nil
	case wire.TakeTail:
		return n.ship.from(d.At.LSN, d.At.LSN)
	}
	x.syncing = false
	if n.marks()&(seglog.Inconsistent|seglog.Staging) != 0 {
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
	now := n.now
	for n.cache.Busy() {
		n.cache.Kick(now) // what has ended may be all that there was
		if !n.cache.Busy() {
			break
		}
		var err error
		if now, err = n.o.Drive(); err != nil {
			return err
		}
	}
	return nil
}

// resumeSync goes on with a sync that was interrupted.
func (x *receiver) resumeSync(d *wire.DecisionMsg) error {
	n := x.n
	if n.marks()&(seglog.Inconsistent|seglog.Staging) == 0 || n.log.Sealed() != d.At.LSN {
		return fmt.Errorf("the primary goes on with a sync at LSN %d, this log ends at %d (%v)", d.At.LSN, n.log.Sealed(), n.marks())
	}
	if err := x.quiet(); err != nil {
		return err
	}
	n.ship.close()
	x.begin()
	if x.staged = n.cache.Staging(); x.staged && !d.Stage {
		x.giveUp("the primary cannot stage a sync")
	}
	return x.memory()
}

func (x *receiver) begin() {
	x.syncing, x.flushed, x.ticket, x.since, x.upTo, x.pausing, x.progress = true, false, 0, 0, 0, false, 0
	x.staged, x.giving, x.gaveUp = false, "", 0
}

func (x *receiver) memory() (err error) {
	if x.mem == nil {
		x.head = max(x.n.log.StageUnit(), 4096)
		x.mem, err = blk.Alloc(resyncSlots * int(x.head+syncBytes))
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
	x.declared = 0
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
