package dcd

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// errUnfilled is the state of a data disk that missed writes, until it is replaced.
var errUnfilled = errors.New("the data disk missed writes: it holds the volume again only after replace-disk")

// DataQuiet reports whether nothing is on its way to or from the data disk.
func (c *Cache) DataQuiet() bool {
	if c.d.phase != resting || c.b.pending() || c.gen.busy() || c.y.active > 0 {
		return false
	}
	for i := range c.r.parts {
		if p := &c.r.parts[i]; p.from == fromData && (p.parent != nil || p.held != nil) {
			return false
		}
	}
	return true
}

// Data is the data disk, nil when there is none.
func (c *Cache) Data() blk.Device { return c.data }

// Fits says what is wrong with a disk that shall take the data disk's place, or nil.
func (c *Cache) Fits(dev blk.Device) error {
	switch i := dev.Info(); {
	case i.ReadOnly:
		return ErrReadOnly
	case i.Zoned:
		return ErrZoned
	case i.SizeBytes < c.info.SizeBytes:
		return fmt.Errorf("%w: %d bytes, %d are needed", ErrShrunk, i.SizeBytes, c.info.SizeBytes)
	case i.LogicalBytes > c.info.LogicalBytes:
		return fmt.Errorf("the disk has blocks of %d bytes, the volume %d", i.LogicalBytes, c.info.LogicalBytes)
	}
	return nil
}

// ReplaceData puts an empty disk in the data disk's place, which must be lost and quiet: destage
// goes to dev from now on, reads only as far as Filled says. The log says so, durably with the
// ticket: only from then on may anything be Filled. The old disk is its owner's.
func (c *Cache) ReplaceData(dev blk.Device) (ticket uint64, err error) {
	if err := c.Fits(dev); err != nil {
		return 0, err
	}
	if c.data != nil && c.dataErr == nil || !c.DataQuiet() {
		return 0, errors.New("dcd: the old data disk is still in use")
	}
	c.data, c.dataErr = dev, nil
	c.filling, c.filled = true, 0
	if c.log.Applying() {
		c.log.EndStage() // the old disk lacks these blocks, and the new one gets everything from the peer
	}
	return c.log.Update(func(s *seglog.Super) {
		s.Marks |= seglog.NeedsRefill
		s.Incompat |= seglog.Refills
		s.Refilled, s.DiskIdentity = 0, dev.Info().Identity
		s.Fingerprint = [seglog.FingerprintSectors]uint64{}
	}), nil
}

// Filling reports whether the data disk is a new one that is not complete, and how much of it,
// from its beginning, is good.
func (c *Cache) Filling() (on bool, upTo int64) { return c.filling, c.filled }

// Filled says that everything before upTo is on the new disk: together with the log it is the volume.
func (c *Cache) Filled(upTo int64) { c.filled = upTo }

// Whole says that the new disk is complete.
func (c *Cache) Whole() { c.filling = false }

// missing reports whether the data disk does not hold all before end.
func (c *Cache) missing(end int64) bool { return c.filling && end > c.filled }

// recall takes up what the log says of a data disk that was lost in an earlier life.
func (c *Cache) recall(s *seglog.Super) {
	switch {
	case s.Marks&seglog.NeedsRefill == 0 || c.data == nil || c.follow: // a secondary is filled by a full sync
	case s.Refilled < 0:
		c.dataFailed(errUnfilled)
	default:
		c.filling, c.filled = true, min(s.Refilled, c.info.SizeBytes)
	}
}
