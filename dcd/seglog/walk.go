package seglog

import (
	"errors"

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
	w := offline(dev, s, drive)
	defer w.close()
	var lost []Lost
	for {
		hole, err := w.follow(visit)
		if hole == nil {
			return *s, lost, err
		}
		if errors.Is(hole, ErrReadError) && !salvage {
			return *s, lost, hole
		}
		if err := w.judge(hole); err == nil || !salvage {
			return *s, lost, err
		}
		from := w.l.sealed + 1
		g := w.resume()
		if g == nil {
			return *s, append(lost, Lost{from, max(s.Declared, from)}), nil
		}
		lost = append(lost, Lost{from, g.LSN - 1})
		w.l.pass(g)
		if err := visit(g); err != nil {
			return *s, lost, err
		}
	}
}

// WalkStage gives the blocks of a log's stage, offline, and changes nothing. A Payload is valid during the call.
func WalkStage(dev blk.Device, drive blk.Drive, visit func(b Staged)) (Super, error) {
	s, _, err := probe(dev, drive)
	if err != nil {
		return Super{}, err
	}
	l := &Log{dev: dev, super: *s}
	return *s, l.openStage(&Options{Staged: visit}, drive)
}

// offline is a walker over a log that is only read; it stands at the recovery start.
func offline(dev blk.Device, s *Super, drive blk.Drive) *walker {
	l := &Log{dev: dev, super: *s}
	l.rewindTo(s.Start)
	return &walker{l: l, drive: drive}
}

// follow gives every segment up to a hole, or up to an error of visit; then there is no hole.
func (w *walker) follow(visit func(s *Segment) error) (hole, err error) {
	for {
		g, hole := w.next()
		if hole != nil {
			return hole, nil
		}
		w.l.pass(g)
		if err := visit(g); err != nil {
			return nil, err
		}
	}
}

// resume looks behind a damaged segment, to the end of the ring, for the next one that is whole; nil: none is.
func (w *walker) resume() *Segment {
	l := w.l
	c := Pos(l.super.ChunkBytes)
	end := l.super.tail() + Pos(l.super.RingBytes)
	for p := l.head; p < end; p += sectorBytes {
		left := int64(c - p%c)
		s, e := w.header(p, left)
		if e != nil || s.LSN <= l.sealed+1 || s.Volume != l.super.Volume || s.Term.Number < l.super.MinTerm || int64(s.Bytes) > left {
			continue
		}
		raw, e := w.bytes(p, int64(s.Bytes))
		if e != nil {
			continue
		}
		if s, e = Parse(raw, int(left)); e == nil {
			s.Pos = p
			return &s
		}
	}
	return nil
}
