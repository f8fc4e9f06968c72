package seglog

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Sizes of a new log, unless Super says otherwise.
const (
	DefaultRAMBytes        = 64 << 20
	DefaultMaxSegmentBytes = 1<<20 + 4096
	dirtyUnit              = 64 << 10 // data disk bytes per bit for which the dirty map has room twice
	minSegments            = 4        // that a chunk must hold
)

// Layout computes where everything lies on a log device of size bytes. It fills the zero
// fields of s and keeps those that are set (ChunkBytes and MaxSegmentBytes, for small logs).
func Layout(s *Super, size int64, block int32) error {
	s.BlockBytes = max(block, sectorBytes)
	if s.MaxSegmentBytes == 0 {
		s.MaxSegmentBytes = min(DefaultMaxSegmentBytes, size/16/4096*4096)
	}
	if s.MaxSegmentBytes < 1024 {
		return fmt.Errorf("%w: %d bytes", ErrTooSmall, size)
	}
	unit := max(int64(s.BlockBytes), 4096)
	up := func(n int64) int64 { return (n + unit - 1) / unit * unit }
	s.CheckpointOffset, s.CheckpointBytes = 2*slotBytes, up(size/128)
	s.DirtyOffset, s.DirtyBytes = up(s.CheckpointOffset+s.CheckpointBytes), 2*up(s.DiskBytes/dirtyUnit/8+1)
	s.RingOffset = up(s.DirtyOffset + s.DirtyBytes)
	room := (size - s.RingOffset) / unit * unit
	if s.ChunkBytes == 0 {
		n := max((room+DefaultRAMBytes-1)/DefaultRAMBytes, 1)
		s.ChunkBytes = room / n / unit * unit
	}
	if s.ChunkBytes < minSegments*s.MaxSegmentBytes || room < s.ChunkBytes {
		return fmt.Errorf("%w: %d bytes; %d are needed for a disk of %d", ErrTooSmall, size, s.RingOffset+minSegments*16*s.MaxSegmentBytes, s.DiskBytes)
	}
	s.RingBytes = room / s.ChunkBytes * s.ChunkBytes
	return nil
}

// Create makes a new log on dev, which the caller has found to hold nothing that is missed. The
// ring is zeroed, so that no segment of an earlier log can ever be believed.
func Create(dev blk.Device, s Super, drive blk.Drive) error {
	i := dev.Info()
	if err := Layout(&s, i.SizeBytes, max(i.PhysicalBytes, i.LogicalBytes)); err != nil {
		return err
	}
	if s.Start.LSN == 0 {
		s.Start.LSN = 1
	}
	buf, err := blk.Alloc(1 << 20)
	if err != nil {
		return err
	}
	defer blk.Free(buf)
	if err := zero(dev, s.RingOffset, s.RingBytes, buf, drive); err != nil {
		return fmt.Errorf("seglog: clear the ring: %w", err)
	}
	return writeSupers(dev, s, buf, drive)
}

// Begin gives a log that Create has just made another beginning: the ring, which takes long to clear,
// stays as it is. s is as it was for Create but for where the chain goes on, and what the marks say.
func Begin(dev blk.Device, s Super, drive blk.Drive) error {
	i := dev.Info()
	if err := Layout(&s, i.SizeBytes, max(i.PhysicalBytes, i.LogicalBytes)); err != nil {
		return err
	}
	buf, err := blk.Alloc(slotBytes)
	if err != nil {
		return err
	}
	defer blk.Free(buf)
	return writeSupers(dev, s, buf, drive)
}

func writeSupers(dev blk.Device, s Super, buf []byte, drive blk.Drive) error {
	for slot := range int64(2) {
		s.Seq = uint64(slot) + 1
		encodeSuper(buf, &s)
		r := &blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: slot * slotBytes, Length: slotBytes, Buf: buf[:slotBytes]}
		if err := blk.Do(dev, r, drive); err != nil {
			return fmt.Errorf("seglog: write superblock: %w", err)
		}
	}
	return flush(dev, drive)
}

// zero writes zeros over a range, with buf, which is cleared.
func zero(dev blk.Device, off, n int64, buf []byte, drive blk.Drive) error {
	clear(buf)
	for end := off + n; off < end; {
		k := min(int64(len(buf)), end-off)
		if err := blk.Do(dev, &blk.Request{Op: blk.Write, Offset: off, Length: k, Buf: buf[:k]}, drive); err != nil {
			return err
		}
		off += k
	}
	return flush(dev, drive)
}

func flush(dev blk.Device, drive blk.Drive) error {
	if err := blk.Do(dev, &blk.Request{Op: blk.Flush}, drive); err != nil {
		return fmt.Errorf("seglog: flush: %w", err)
	}
	return nil
}
