package seglog

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Lost is a stretch of segments that were durable and cannot be read any more.
type Lost struct {
	From LSN `json:"from_lsn"`
	To   LSN `json:"to_lsn"`
}

// Walk gives every segment of a log in order, offline, and changes nothing. Raw is valid during
// the call; an error of visit ends the walk. Without salvage the walk ends, with a CorruptError,
// at the first segment that was durable and is damaged; with it, it goes on at the next good
// segment behind, and what lies between is lost. A torn tail is the end of the log.
func Walk(dev blk.Device, drive blk.Drive, salvage bool, visit func(s *Segment) error) (Super, []Lost, error) {
	s, _, err := probe(dev, drive)
	if err != nil {
		return Super{}, nil, err
	}
	l := &Log{dev: dev, super: *s}
	l.rewindTo(s.Start)
	w := walker{l: l, drive: drive}
	defer w.close()
	var lost []Lost
	for {
		g, err := w.next()
		if err != nil {
			if errors.Is(err, ErrReadError) && !salvage {
				return *s, lost, err
			}
			err = w.judge(err)
			if err == nil || !salvage {
				return *s, lost, err
			}
			from := l.sealed + 1
			if g, err = w.resume(); g == nil {
				var c *CorruptError
				to := s.Declared
				if errors.As(err, &c) && c.By > 0 {
					to = c.By - 1
				}
				return *s, append(lost, Lost{from, max(to, from)}), nil
			}
			lost = append(lost, Lost{from, g.LSN - 1})
		}
		l.sealed, l.hash, l.head = g.LSN, g.Hash, g.Pos+Pos(l.padded(g.Bytes))
		if err := visit(g); err != nil {
			return *s, lost, err
		}
	}
}

// resume looks behind a damaged segment, to the end of the ring, for the next one that is whole.
func (w *walker) resume() (*Segment, error) {
	l := w.l
	c := Pos(l.super.ChunkBytes)
	end := l.super.Start.Pos + Pos(l.super.RingBytes)
	err := fmt.Errorf("%w: nothing good behind LSN %d", ErrCorrupt, l.sealed)
	for p := l.head; p < end; p += sectorBytes {
		left := int64(c - p%c)
		s, e := w.header(p, left)
		if e != nil || s.LSN <= l.sealed+1 || s.Volume != l.super.Volume || int64(s.Bytes) > left {
			continue
		}
		raw, e := w.bytes(p, int64(s.Bytes))
		if e != nil {
			continue
		}
		if s, e = Parse(raw, int(left)); e == nil {
			s.Pos = p
			return &s, nil
		}
	}
	return nil, err
}
