package dcd

import (
	"errors"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Status is what the cache is doing, at one instant.
type Status struct {
	Counters
	Sealed, Durable, Destaged seglog.LSN
	LogUsed, LogBytes         int64 // occupied, and of how many
	DirtyBlocks               int   // map entries
	Pending, Waiting          int   // writes in no segment yet, and not acknowledged yet
	MapLimit                  int
	LogReadBytes              uint64 // read back because RAM had it no more
	Appends, AppendedBytes    uint64
	Full                      bool
	LowWater, HighWater       int     // per cent
	FreedBytesPerSecond       float64 // how fast log space comes back
	CommitNanos               int64   // that an append takes, on average
	BatchBlocks               int     // of the next destage batch
	OldestNanos               int64   // wall-clock time of the oldest segment that is not destaged, after a restart perhaps of an older one; 0: none
	Ordered                   bool
	WriteCache                bool
	Bypass                    int64 // bytes of a sequential run after which writes go past the log; 0: never
	Bypassed, BypassedBytes   uint64
	RAMBytes                  int64
	MapBytes                  int64
	ZeroExtents               int   // ranges discarded or zeroed, not yet destaged
	ZeroBytes                 int64 // that they cover
}

// Status tells what the cache is doing.
func (c *Cache) Status() Status {
	s := Status{Counters: c.count, Sealed: c.log.Sealed(), Durable: c.log.Durable(), Destaged: c.d.reader.Kept(), DirtyBlocks: c.idx.n, MapLimit: c.idx.limit,
		Pending: c.pending.Len(), Waiting: c.waiting.Len(), LogReadBytes: c.log.DeviceReadBytes, Appends: c.log.Appends, AppendedBytes: c.log.AppendedBytes, Full: c.full,
		ZeroExtents: len(c.zeros.list), ZeroBytes: c.zeros.bytes()}
	s.LogUsed, s.LogBytes = c.log.Used()
	s.LowWater, s.HighWater, s.Ordered = c.o.LowWater, c.o.HighWater, c.o.Ordered
	s.WriteCache = c.o.WriteCache
	s.Bypass, s.Bypassed, s.BypassedBytes = c.y.least, c.y.count, c.y.bytes
	s.FreedBytesPerSecond, s.CommitNanos, s.BatchBlocks = c.p.rate, c.log.AppendNanos(), c.p.budget()
	s.OldestNanos, _ = c.log.Wall(s.Destaged + 1)
	s.RAMBytes, s.MapBytes = c.log.Super().ChunkBytes, int64(len(c.idx.mem))
	return s
}

// Damaged is the LSN of the last segment of which a read of the log device found something else than what was
// written; 0: of none.
func (c *Cache) Damaged() seglog.LSN { return c.count.RottenLSN }

// Tune changes the watermarks (0: the default), the bypass (as in Options) and the order of destage from the next batch on.
func (c *Cache) Tune(low, high int, ordered bool, bypass int64) {
	c.y.set(bypass)
	c.o.LowWater, c.o.HighWater = Watermarks(low, high)
	c.o.Ordered = ordered
}

// DestageAll makes destage go on until nothing is left, or stops that.
func (c *Cache) DestageAll(on bool) { c.d.all = on }

// HoldDestage stops destage from beginning batches, or lets it go on.
func (c *Cache) HoldDestage(on bool) { c.d.held = on }

// PauseDestage lets the data disk alone until the log is full, a command wants the log emptied, or
// the log is lost.
func (c *Cache) PauseDestage(on bool) { c.d.paused = on }

// Dirty is how many bytes of payload are mapped, at most; 0 when the data disk holds everything.
func (c *Cache) Dirty() int64 {
	if c.idle() && c.d.phase == resting && c.d.reader.Kept() >= c.log.Sealed() {
		return 0
	}
	return max(int64(c.idx.n), 1) * BlockBytes
}

// Busy reports whether anything of the cache's own is in flight below.
func (c *Cache) Busy() bool {
	return c.log.Busy() || c.log.Unwritten() || c.d.out > 0 || c.b.pending() || c.m.busy || c.y.active > 0 || c.r.active > 0
}

// Cut durably removes the log's tail after lsn and maps again what is left. Nothing may be in flight.
func (c *Cache) Cut(after seglog.LSN, drive blk.Drive) error {
	if c.d.phase != resting || c.b.out > 0 {
		return errBusy
	}
	if c.d.reader.Kept() > after {
		return errors.New("dcd: what is to be cut has been destaged")
	}
	if err := c.log.Cut(after, drive); err != nil {
		return err
	}
	return c.remap(drive)
}

// Reset empties log and map: a full sync brings everything after p anew.
func (c *Cache) Reset(p seglog.Point, change func(s *seglog.Super), drive blk.Drive) error {
	if c.d.phase != resting || c.b.out > 0 {
		return errBusy
	}
	if err := c.log.Reset(p, change, drive); err != nil {
		return err
	}
	c.idx.reset()
	c.zeros.list = c.zeros.list[:0]
	c.cleared, c.declared = p.LSN-1, p.LSN-1
	return nil
}

// remap rebuilds the map from the segments that are not destaged yet. Those that are may be
// retained all the same, but nobody would take their mapping away before their space is reused.
func (c *Cache) remap(drive blk.Drive) error {
	c.idx.reset()
	c.zeros.list = c.zeros.list[:0]
	c.declared = 0
	return errors.Join(c.log.Scan("remap", c.d.reader.Kept(), drive, c.mapSegment))
}
