package dcd

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Rescued is what Rescue found, and wrote.
type Rescued struct {
	First     seglog.LSN    `json:"first_lsn"`
	Last      seglog.LSN    `json:"last_lsn"`
	Segments  int           `json:"segments"`
	Records   int           `json:"records"`
	Bytes     int64         `json:"bytes"`        // of payload
	Zeroed    int64         `json:"zeroed_bytes"` // discarded or zeroed ranges
	Lost      []seglog.Lost `json:"lost"`
	Declared  seglog.LSN    `json:"declared_lsn"` // all up to it had been durable
	DiskBytes int64         `json:"disk_bytes"`
}

// Rescue writes every block of a log that can still be read to the data disk, in order, also
// those behind damaged segments: the last resort when the log cannot be opened and no peer has
// its contents. With a nil disk it only says what it would do. The log is not changed.
func Rescue(log, disk blk.Device, drive blk.Drive) (Rescued, error) {
	r := Rescued{Lost: []seglog.Lost{}}
	buf, err := blk.Alloc(zeroFill)
	if err != nil {
		return r, err
	}
	defer blk.Free(buf)
	do := func(q *blk.Request) error {
		if disk == nil {
			return nil
		}
		if err := blk.Do(disk, q, drive); err != nil {
			return fmt.Errorf("%v of [%d, +%d) on the data disk: %w", q.Op, q.Offset, q.Length, err)
		}
		return nil
	}
	sup, lost, err := seglog.Walk(log, drive, true, func(s *seglog.Segment) error {
		if r.Segments == 0 {
			r.First = s.LSN
		}
		r.Segments, r.Last = r.Segments+1, s.LSN
		for i := range s.Records {
			rec := s.Record(i)
			if disk != nil && rec.Offset+rec.Length > disk.Info().SizeBytes {
				return fmt.Errorf("segment %d writes beyond the end of the data disk: is it the right one?", s.LSN)
			}
			r.Records++
			zero := isZeroing(rec.Kind)
			for off := int64(0); off < rec.Length; {
				n := min(rec.Length-off, int64(len(buf)))
				if zero {
					clear(buf[:n])
				} else {
					copy(buf[:n], s.Payload(rec)[off:])
				}
				if err := do(&blk.Request{Op: blk.Write, Offset: rec.Offset + off, Length: n, Buf: buf[:n]}); err != nil {
					return err
				}
				off += n
			}
			if zero {
				r.Zeroed += rec.Length
			} else {
				r.Bytes += rec.Length
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	r.Lost, r.Declared, r.DiskBytes = append(r.Lost, lost...), sup.Declared, sup.DiskBytes
	return r, do(&blk.Request{Op: blk.Flush})
}
