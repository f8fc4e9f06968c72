package dcd

import (
	"errors"
	"fmt"
	"hash/crc64"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// ErrChanged says that the data disk's superblock areas were changed behind the log's back.
var ErrChanged = errors.New("the data disk was changed behind the log's back")

const half = seglog.FingerprintSectors / 2

var sectorTab = crc64.MakeTable(crc64.ECMA)

// sectorHash is never 0, which stands for unknown.
func sectorHash(b []byte) uint64 { return crc64.Checksum(b, sectorTab) | 1 }

// printIndex says which place in the fingerprint the sector at off has, if any.
func printIndex(off, size int64) (int, bool) {
	s, n := off/blk.SectorBytes, size/blk.SectorBytes
	switch {
	case s < half:
		return int(s), true
	case s >= n-half:
		return int(s - n + seglog.FingerprintSectors), true
	}
	return 0, false
}

// Fingerprint hashes the sectors of the disk's first and last 128 KiB.
func Fingerprint(dev blk.Device, size int64, drive blk.Drive) (f [seglog.FingerprintSectors]uint64, err error) {
	buf, err := blk.Alloc(half * blk.SectorBytes)
	if err != nil {
		return f, err
	}
	defer blk.Free(buf)
	n := min(int64(len(buf)), size)
	for _, at := range []int64{0, size - n} {
		if err := blk.Do(dev, &blk.Request{Op: blk.Read, Offset: at, Length: n, Buf: buf[:n]}, drive); err != nil {
			return f, fmt.Errorf("fingerprint: %w", err)
		}
		printsIn(at, at+n, size, func(k int, s int64) { f[k] = sectorHash(buf[s-at:][:blk.SectorBytes]) })
	}
	return f, nil
}

// Fingerprinted reports whether the log knows what all of the data disk's superblock areas hold.
func (c *Cache) Fingerprinted() bool {
	known, s := true, c.log.Super()
	printsIn(0, c.info.SizeBytes, c.info.SizeBytes, func(k int, _ int64) { known = known && s.Fingerprint[k] != 0 })
	return known
}

// Refingerprint has the log know it, with its next superblock. Nothing may be on its way to the data disk,
// and what is on it must be durable.
func (c *Cache) Refingerprint(drive blk.Drive) error {
	f, err := Fingerprint(c.data, c.info.SizeBytes, drive)
	if err == nil {
		c.log.Super().Fingerprint = f
	}
	return err
}

// sightings are the versions of fingerprinted sectors that the recovered log holds.
type sightings struct {
	size int64
	seen map[int][]uint64
	at   map[int][]seglog.Pos // versions whose bytes were not read: they lie there
}

func newSightings(s *seglog.Super) *sightings {
	return &sightings{s.DiskBytes, map[int][]uint64{}, map[int][]seglog.Pos{}}
}

func (g *sightings) note(s *seglog.Segment) {
	for i := range s.Records {
		r := s.Record(i)
		p := s.Payload(r)
		printsIn(r.Offset, r.Offset+r.Length, g.size, func(k int, at int64) {
			in := at - r.Offset
			switch {
			case r.Kind == seglog.Bypass: // never there: see bypass.may
			case isZeroing(r.Kind):
				g.seen[k] = append(g.seen[k], zeroHash)
			case p == nil:
				g.at[k] = append(g.at[k], r.At+seglog.Pos(in))
			default:
				g.seen[k] = append(g.seen[k], sectorHash(p[in:in+blk.SectorBytes]))
			}
		})
	}
}

// printsIn calls f for each sector in [off, end) that has a place in the fingerprint: the place,
// and where on the disk the sector lies.
func printsIn(off, end, size int64, f func(k int, at int64)) {
	const area = half * blk.SectorBytes
	for s := off; s < min(end, area); s += blk.SectorBytes {
		if k, ok := printIndex(s, size); ok {
			f(k, s)
		}
	}
	for s := max(off, area, size-area); s < end; s += blk.SectorBytes {
		if k, ok := printIndex(s, size); ok {
			f(k, s)
		}
	}
}

// check compares the disk: each known sector is as it was at the recovery start, or one of the
// versions that the log holds since. What is found becomes the fingerprint: a version that an
// earlier life destaged may be superseded in this one, and then is never destaged again. The
// disk is flushed first, so that what is found stays.
func (g *sightings) check(l *seglog.Log, dev blk.Device, drive blk.Drive, accept bool) error {
	s := l.Super()
	if s.Fingerprint == ([seglog.FingerprintSectors]uint64{}) || s.Marks&seglog.Inconsistent != 0 {
		return nil
	}
	if err := blk.Do(dev, &blk.Request{Op: blk.Flush}, drive); err != nil {
		return fmt.Errorf("fingerprint: flush: %w", err)
	}
	now, err := Fingerprint(dev, g.size, drive)
	if err != nil {
		return err
	}
	var bad []int64
next:
	for k, want := range s.Fingerprint {
		if want == 0 || now[k] == 0 || now[k] == want {
			continue
		}
		for _, v := range g.seen[k] {
			if v == now[k] {
				continue next
			}
		}
		for _, p := range g.at[k] {
			v, err := logSector(l, p, drive)
			if err != nil {
				return err
			}
			if v == now[k] {
				continue next
			}
		}
		at := int64(k)
		if k >= half {
			at = g.size/blk.SectorBytes - seglog.FingerprintSectors + int64(k)
		}
		bad = append(bad, at)
	}
	if len(bad) == 0 || accept {
		s.Fingerprint = now
		return nil
	}
	return fmt.Errorf("%w: %d of its superblock sectors differ, the first is sector %d", ErrChanged, len(bad), bad[0])
}

// logSector is the hash of the sector of payload at p.
func logSector(l *seglog.Log, p seglog.Pos, drive blk.Drive) (uint64, error) {
	block := int64(l.Super().BlockBytes)
	b, err := blk.Alloc(int(block))
	if err != nil {
		return 0, err
	}
	defer blk.Free(b)
	off := l.DeviceOffset(p)
	if err := blk.Do(l.Device(), &blk.Request{Op: blk.Read, Offset: off / block * block, Length: block, Buf: b}, drive); err != nil {
		return 0, fmt.Errorf("fingerprint: read the log: %w", err)
	}
	return sectorHash(b[off%block:][:blk.SectorBytes]), nil
}
