package dcd

import (
	"errors"
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
	if err := rescueStage(log, do, buf, drive); err != nil {
		return r, err
	}
	past, err := bypassedRanges(log, drive)
	if err != nil {
		return r, err
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
			if rec.Kind == seglog.Bypass {
				continue // the data disk has it
			}
			zero := isZeroing(rec.Kind)
			for off := int64(0); off < rec.Length; {
				n := min(rec.Length-off, int64(len(buf)))
				newer, n := past.covers(rec.Offset+off, n, s.LSN)
				if newer {
					off += n
					continue
				}
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

// rescueStage brings the blocks of a sync to the data disk, where they belong before anything else of the log.
func rescueStage(log blk.Device, do func(q *blk.Request) error, buf []byte, drive blk.Drive) error {
	s, err := seglog.Probe(log, drive)
	switch {
	case err != nil:
		return err
	case s.Marks&seglog.Staging != 0:
		return fmt.Errorf("the log holds a sync that is not whole: the data disk alone is the copy, as of LSN %d, and lacks nothing", s.Visible.LSN-1)
	}
	var failed error
	_, err = seglog.WalkStage(log, drive, func(b seglog.Staged) {
		for off := int64(0); off < b.Length && failed == nil; {
			n := min(b.Length-off, int64(len(buf)))
			if clear(buf[:n]); b.Payload != nil {
				copy(buf[:n], b.Payload[off:])
			}
			failed = do(&blk.Request{Op: blk.Write, Offset: b.Offset + off, Length: n, Buf: buf[:n]})
			off += n
		}
	})
	return errors.Join(err, failed)
}

// bypasses are the ranges that went past a log, in its order: what the log has of them from before
// is older than what the data disk has.
type bypasses []extent

func bypassedRanges(log blk.Device, drive blk.Drive) (list bypasses, err error) {
	_, _, err = seglog.Walk(log, drive, true, func(s *seglog.Segment) error {
		for i := range s.Records {
			if r := s.Record(i); r.Kind == seglog.Bypass {
				list = append(list, extent{r.Offset, r.Offset + r.Length, s.LSN})
			}
		}
		return nil
	})
	return list, err
}

// covers says for how many bytes from off, n at most, the data disk is newer than segment lsn, or is not.
func (b bypasses) covers(off, n int64, lsn seglog.LSN) (newer bool, bytes int64) {
	end := off + n
	for _, e := range b {
		switch {
		case e.lsn <= lsn || e.end <= off || e.off >= end:
		case e.off <= off:
			return true, min(e.end, end) - off
		default:
			end = e.off
		}
	}
	return false, end - off
}
