package dcd

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Defaults of Options and fixed limits; all are shown in Status.
const (
	DefaultDepth        = 128
	DefaultDestageBytes = 2 << 20
	DefaultIdleNanos    = 50_000_000     // without a request for that long the disk is idle
	DefaultDiskNanos    = 30_000_000_000 // a disk that does not answer for that long has failed
	destageDepth        = 32             // writes of one batch in flight
	readParts           = 2048           // parts of reads in flight: one request has at most 1,024
	maxDiskBytes        = 16 << 40
	maxZeroBytes        = 4<<30 - 4096 // of one discard or write-zeroes: a record's length has 32 bits
)

// Options of Open. Zero values are the documented defaults.
type Options struct {
	// Data is the data disk; nil: lost. It is also the seam for a cache of clean blocks, which does not exist yet: a
	// blk.Device around the disk. It would see every read of what the log does not hold (reads.serve), and everything
	// that ever changes the disk, destage, zeroing, bypass, Below and what is mended, so that it needs no other word.
	Data  blk.Device
	Log   blk.Device // nil: lost; Super then says how the chain goes on
	Super *seglog.Super

	Incarnation  uint64 // random, drawn at every start
	DestageBytes int    // of one batch
	IdleNanos    int64
	DiskNanos    int64
	Follow       bool // a secondary: its segments come by Adopt, it seals none of its own
	LowWater     int  // per cent of the log; see DefaultLowWater
	HighWater    int
	Ordered      bool  // destage segment by segment, each flushed: the data disk alone is always an older image
	Bypass       int64 // bytes of a sequential run after which writes go past the log; 0: the default, negative: never
	AcceptDisk   bool  // the data disk's superblock areas may have changed behind our back

	// WriteCache acknowledges a write when RAM has it: the device is offered with a volatile cache,
	// and a flush, or FUA, waits until it is as safe as otherwise every write is. RAM, where given,
	// outlives the process: see seglog.Options.
	WriteCache bool
	RAM        []byte
	Replay     uint64
}

// Errors of Open.
var (
	ErrReadOnly = errors.New("the data disk is read-only")
	ErrZoned    = errors.New("the data disk is zoned")
	ErrTooLarge = errors.New("the data disk is larger than 16 TiB")
	ErrShrunk   = errors.New("the data disk is smaller than the volume")
)

// Cache is a blk.Device over a log and a data disk. It knows no peer: whoever replicates moves
// the limits. Every method is the loop's.
type Cache struct {
	// AckLimit is the newest LSN that may be acknowledged once durable here, DestageLimit the
	// newest that may be destaged. MaxUint64: no limit.
	AckLimit, DestageLimit seglog.LSN

	log      *seglog.Log
	data     blk.Device
	fallback blk.Device
	o        Options
	info     blk.Info
	idx      *index
	zeros    extents

	held    bool
	remote  bool // the peer's copy is the volume: see SetRemote
	stopped bool // every request is refused: see Refuse
	closed  bool // writes are refused: see RefuseWrites
	doubt   bool // a lost disk may be made up for by the peer: see Doubt
	parked  blk.Queue

	pending blk.Queue // writes that are in no segment yet
	waiting blk.Queue // writes, and flushes of a write cache, in LSN order, not yet acknowledged
	cached  blk.Queue // writes of the segment being filled that a write cache acknowledges at its seal
	lockOff int64     // range that a full sync reads: writes over it stay pending
	lockLen int64
	full    bool // the last Begin found no room

	r   reads
	v   verifier
	m   mender
	d   destager
	p   pressure
	b   below
	y   bypass
	gen generation

	filling bool  // the data disk is a new one: see ReplaceData
	filled  int64 // what of it is good, from its beginning

	lastZero seglog.LSN // newest segment that discards or zeroes

	cleared  seglog.LSN // newest LSN whose mapping was dropped: the data disk has it
	lastIO   int64
	adopted  bool // a segment of the primary's came: its client is busy
	dataErr  error
	logErr   error
	follow   bool
	declared seglog.LSN // newest durable-through seen, for a secondary
	logged   seglog.LSN // durable when writes were last stamped

	count Counters
}

// Counters only grow.
type Counters struct {
	Reads, Writes      uint64
	ReadRAM, ReadLog   uint64 // runs of bytes served from there
	ReadData, ReadPeer uint64
	WrittenBytes       uint64 // by the client
	DestagedBytes      uint64
	DestageBatches     uint64
	SupersededBytes    uint64 // never destaged, because they were written again before
	Commits            uint64
	Discards, Zeroes   uint64     // requests
	ZeroedBytes        uint64     // discarded or zeroed on the data disk
	ReadZero           uint64     // runs
	Mended             uint64     // ranges that the data disk could not read, written anew
	Rotten             uint64     // reads of the log device that found damage, which nobody was given
	RottenLSN          seglog.LSN // where the last one did
	Throttled          uint64     // times a write found the log full
}

// Open recovers log and map, and compares the data disk with its fingerprint.
func Open(o Options, drive blk.Drive) (*Cache, error) {
	if o.DestageBytes == 0 {
		o.DestageBytes = DefaultDestageBytes
	}
	if o.IdleNanos == 0 {
		o.IdleNanos = DefaultIdleNanos
	}
	if o.DiskNanos == 0 {
		o.DiskNanos = DefaultDiskNanos
	}
	o.LowWater, o.HighWater = Watermarks(o.LowWater, o.HighWater)
	c := &Cache{AckLimit: math.MaxUint64, DestageLimit: math.MaxUint64, data: o.Data, o: o, follow: o.Follow}
	c.gen.c = c
	super := o.Super
	if o.Log != nil {
		s, err := seglog.Probe(o.Log, drive)
		if err != nil {
			return nil, err
		}
		super = &s
	}
	if super == nil {
		return nil, errors.New("dcd: neither a log nor a superblock")
	}
	if err := c.describe(super); err != nil {
		return nil, err
	}
	c.recall(super)
	var err error
	if c.idx, err = newIndex(int(max(super.RingBytes, super.ChunkBytes) / BlockBytes)); err != nil {
		return nil, err
	}
	seen := newSightings(super)
	c.log, err = seglog.Open(o.Log, seglog.Options{Incarnation: o.Incarnation, Super: super, RAM: o.RAM, Replay: o.Replay, Deadline: o.DiskNanos, Visit: func(s *seglog.Segment) {
		c.mapSegment(s)
		seen.note(s)
	}, Staged: func(b seglog.Staged) { c.gen.touch(b.Offset, b.Length) }}, drive)
	if err == nil && o.Data != nil && c.dataErr == nil {
		// Of a disk that is being filled the log knows only what it has brought there itself.
		err = seen.check(c.log, o.Data, drive, o.AcceptDisk || super.Marks&seglog.NeedsRefill != 0)
	}
	if err == nil && o.Log != nil && c.log.Super().Incompat&seglog.Zeroes == 0 {
		// Durable before the first such record: an older version then names it, and calls nothing corrupt.
		err = c.log.Sync(c.log.Update(func(s *seglog.Super) { s.Incompat |= seglog.Zeroes }), drive)
	}
	if err == nil {
		err = c.prepare()
	}
	if err != nil {
		return nil, errors.Join(err, c.free())
	}
	return c, nil
}

// describe derives what this device is from the disk, or, without one, from what is remembered.
func (c *Cache) describe(s *seglog.Super) error {
	c.info = blk.Info{SizeBytes: s.DiskBytes, LogicalBytes: s.DiskBlock, PhysicalBytes: max(s.DiskBlock, 4096), Identity: s.DiskIdentity,
		WriteZeroes: true, VolatileCache: c.o.WriteCache}
	if s.DiskBytes > maxDiskBytes {
		return ErrTooLarge
	}
	if c.data == nil {
		return nil
	}
	i := c.data.Info()
	switch {
	case i.ReadOnly:
		return ErrReadOnly
	case i.Zoned:
		return ErrZoned
	case i.SizeBytes < s.DiskBytes:
		return fmt.Errorf("%w: %d bytes, %d expected", ErrShrunk, i.SizeBytes, s.DiskBytes)
	}
	c.info.LogicalBytes = max(i.LogicalBytes, s.DiskBlock)
	c.info.PhysicalBytes = max(i.PhysicalBytes, c.info.LogicalBytes)
	// Writes go to the log: a scheduler that orders them for the disk's arm would only delay them.
	c.info.Rotational = i.Rotational && (c.o.Log == nil || c.o.Log.Info().Rotational)
	c.info.Discard = i.Discard
	return nil
}

func (c *Cache) prepare() error {
	c.v.c, c.m.c = c, c
	if err := c.r.open(c); err != nil {
		return err
	}
	c.b.c, c.p.c = c, c
	c.gen.open()
	c.y.open(c, c.o.Bypass)
	c.cleared = c.log.First() - 1
	c.zeros.list = slices.Grow(c.zeros.list, max(maxExtents-len(c.zeros.list), 0)+3)
	return c.d.open(c)
}

func (c *Cache) free() error {
	var errs []error
	if c.log != nil {
		errs = append(errs, c.log.Close())
	}
	if c.idx != nil {
		errs = append(errs, c.idx.close())
	}
	return errors.Join(append(errs, c.d.free(), c.gen.free(), c.v.close(), blk.Free(c.m.buf))...)
}

// mapSegment enters a segment's records into the map.
func (c *Cache) mapSegment(s *seglog.Segment) {
	for i := range s.Records {
		switch r := s.Record(i); {
		case r.Kind == seglog.Data:
			c.mapRange(r.Offset, r.Length, r.At)
		case isZeroing(r.Kind):
			c.zeroRange(r.Offset, r.Length, s.LSN)
		case r.Kind == seglog.Bypass:
			c.unmapRange(r.Offset, r.Length) // the data disk had it before the record was made
		}
	}
	c.declared = max(c.declared, s.Durable)
}

// base is the version that a payload at p gives to the block whose sector first it begins with.
func base(p seglog.Pos, first int64) uint32 { return uint32(p/blk.SectorBytes) - uint32(first) }

func (c *Cache) mapRange(off, n int64, p seglog.Pos) {
	for n > 0 {
		block, at := off/BlockBytes, off%BlockBytes
		k := min(n, BlockBytes-at)
		mask := sectorMask(at, at+k)
		if Planted && Plant == "forget-mask" {
			mask = fullMask
		}
		c.idx.put(uint32(block), mask, base(p, at/blk.SectorBytes))
		off, n, p = off+k, n-k, p+seglog.Pos(k)
	}
}

// pos is the virtual position of sector s of an entry: entries lie within 2^32 sectors below the head.
func (c *Cache) pos(b uint32, s int) seglog.Pos {
	head := c.log.Head()/blk.SectorBytes + seglog.Pos(c.log.Super().ChunkBytes/blk.SectorBytes)
	at := b + uint32(s)
	return (head - seglog.Pos(uint32(head)-at)) * blk.SectorBytes
}

// Info describes the volume.
func (c *Cache) Info() blk.Info { return c.info }

// Log is the cache's log, for whoever replicates.
func (c *Cache) Log() *seglog.Log { return c.log }

// MaxWrite is the longest write that one segment takes; a longer one fails with EINVAL.
func (c *Cache) MaxWrite() int64 { return c.log.MaxPayload(1) }

// Memory is what the cache's writes come from: the log's RAM and the destage buffer. Whoever runs
// the disks may register it with the kernel; it is the cache's until Close.
func (c *Cache) Memory() [][]byte { return [][]byte{c.log.Memory(), c.d.buf} }

// SetFallback names the device that is asked when data disk or log cannot answer a read.
func (c *Cache) SetFallback(d blk.Device) { c.fallback = d }

// Hold parks every request until it is let go: nothing is answered, or sealed, meanwhile.
func (c *Cache) Hold(on bool) { c.held = on }

// Refuse makes every request fail with EIO, those that wait too, until it is taken back.
func (c *Cache) Refuse(on bool) { c.stopped = on }

// RefuseWrites makes writes fail with EIO, those that wait too, until it is taken back; reads are served.
func (c *Cache) RefuseWrites(on bool) { c.closed = on }

// Doubt makes writes wait, instead of fail, when data disk or log is found lost: a peer that is
// in sync may stand in, and whoever replicates then says SetRemote, or takes the doubt back.
func (c *Cache) Doubt(on bool) { c.doubt = on }

// SetRemote says that the peer's copy is the volume, because data disk or log is lost here:
// what is within DestageLimit is forgotten instead of destaged, and a lost log lives on in RAM.
func (c *Cache) SetRemote(on bool) {
	c.remote = on
	if on && c.logErr != nil && c.log.Device() != nil {
		c.log.LoseDevice()
	}
}

// Follow says whether segments come from a primary (true) or are sealed here.
func (c *Cache) Follow(on bool) { c.follow = on }

// Declared is the newest LSN that a segment here says was durable at the primary.
func (c *Cache) Declared() seglog.LSN { return c.declared }

// LastIO is when the client last had a request in flight, as an Instant's Mono.
func (c *Cache) LastIO() int64 { return c.lastIO }

// Cleared is the newest LSN that is on the data disk and mapped no more.
func (c *Cache) Cleared() seglog.LSN { return c.cleared }

// Lost says why data disk or log has failed for good, nil while they work.
func (c *Cache) Lost() (data, log error) { return c.dataErr, c.logErr }

// LockRange keeps writes over a range out of the log until UnlockRange: a full sync reads it.
func (c *Cache) LockRange(off, n int64) { c.lockOff, c.lockLen = off, n }

// UnlockRange lets them go on.
func (c *Cache) UnlockRange() { c.lockLen = 0 }

// Submit takes a request of the volume's client.
func (c *Cache) Submit(r *blk.Request) {
	r.Err = 0
	if c.held && !c.stopped {
		c.parked.Push(r)
		return
	}
	c.submit(r)
}

func (c *Cache) submit(r *blk.Request) {
	if c.stopped {
		c.refuse(r)
		return
	}
	switch r.Op {
	case blk.Read:
		c.count.Reads++
		if c.gen.parks() {
			c.gen.waiting.Push(r)
			return
		}
		c.r.submit(r)
	case blk.Write:
		if r.Length > c.MaxWrite() {
			deny(r, syscall.EINVAL)
			return
		}
		c.count.Writes++
		c.count.WrittenBytes += uint64(r.Length)
		c.y.note(r)
		c.pending.Push(r)
	case blk.Flush:
		if !c.o.WriteCache {
			r.Owner.Complete(r) // what was acknowledged is durable
			return
		}
		r.LSN = c.log.Sealed()
		c.waiting.Push(r)
	case blk.Discard, blk.WriteZeroes:
		if r.Op == blk.Discard && !c.info.Discard || r.Length > maxZeroBytes {
			deny(r, syscall.EOPNOTSUPP)
			return
		}
		if r.Op == blk.Discard {
			c.count.Discards++
		} else {
			c.count.Zeroes++
		}
		c.pending.Push(r)
	default:
		deny(r, syscall.EOPNOTSUPP)
	}
}

func (c *Cache) refuse(r *blk.Request) { deny(r, syscall.EIO) }

// deny completes r with an error.
func deny(r *blk.Request, err syscall.Errno) {
	r.Err = err
	r.Owner.Complete(r)
}

// Adopt takes a segment of the primary's into log and map. seglog.ErrFull: try again later.
func (c *Cache) Adopt(raw []byte) (seglog.LSN, error) {
	if !c.idx.room(len(raw)/blk.SectorBytes+2) || !c.zeros.room(maxRecords) {
		c.full = true
		return 0, seglog.ErrFull
	}
	s, err := c.log.Adopt(raw)
	if err != nil {
		c.full = c.full || err == seglog.ErrFull
		return 0, err
	}
	c.mapSegment(&s)
	c.adopted = true
	return s.LSN, nil
}

// Kick ends a batch: it answers, acknowledges, destages, commits.
func (c *Cache) Kick(now blk.Instant) int64 {
	wake := int64(blk.Never)
	if c.data != nil {
		wake = c.data.Kick(now)
	}
	if c.fallback != nil {
		wake = min(wake, c.fallback.Kick(now))
	}
	if c.pending.Head() != nil || c.r.active > 0 || c.y.active > 0 || c.adopted {
		c.lastIO, c.adopted = now.Mono, false
	}
	wake = min(wake, c.log.Kick(now))
	c.noteLog()
	wake = min(wake, c.r.kick(now))
	c.acknowledge(now)
	if c.m.asked {
		c.m.kick()
	}
	destages := c.d.phase != resting
	wake = min(wake, c.d.kick(now))
	c.b.kick()
	if !c.gen.rests() {
		wake = min(wake, c.gen.kick(now))
	}
	c.y.kick()
	if !c.held || c.stopped {
		for r := c.parked.Pop(); r != nil; r = c.parked.Pop() {
			c.submit(r)
		}
	}
	c.p.watch(now)
	was := c.full
	wake = min(wake, c.commit(now))
	if c.full && !was && c.d.paused {
		wake = now.Mono // only now destage may begin
	}
	if !c.follow && !c.held {
		wake = min(wake, c.log.Declare(now))
	}
	if destages || c.d.phase != resting || c.full {
		c.log.Kick(now) // it may give space back
	} else {
		c.log.Send()
	}
	// Inline completions (a device in memory) are followed up at once.
	if c.r.done.Head() != nil || c.d.dirty() || c.y.back.Head() != nil || c.waiting.Head() != nil && c.waiting.Head().LSN <= c.ackable() && !c.held {
		wake = now.Mono
	}
	return wake
}

func (c *Cache) noteLog() {
	if err := c.log.Err(); err != nil && c.logErr == nil {
		c.logErr = err
		if c.log.Applying() {
			c.gen.lost(err)
		}
		if c.remote {
			c.log.LoseDevice()
		}
	}
}

// LoseData treats the data disk as failed from now on: it is known to have missed writes.
func (c *Cache) LoseData(err error) { c.dataFailed(err) }

// dataFailed records that the data disk has failed for good.
func (c *Cache) dataFailed(err error) {
	if c.dataErr == nil {
		c.dataErr = err
	}
}

// Close gives everything back; nothing may be in flight. The devices are their owner's.
func (c *Cache) Close() error {
	if err := c.d.reader.Close(); err != nil {
		return err
	}
	return c.free()
}
