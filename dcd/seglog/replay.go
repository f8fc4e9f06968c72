package seglog

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// replay goes on, behind what the device has, with the segments that a killed server had sealed in
// RAM that outlived it: each proves itself by its checksums, its incarnation and the hash of the
// one before, and lies where it would be written. What was half copied fails its checksum; it was
// never acknowledged. The segments are durable when replay returns.
func (l *Log) replay(o *Options, drive blk.Drive) error {
	if !l.lent || o.Replay == 0 {
		return nil
	}
	for {
		s, ok := l.inRAM(o.Replay)
		if !ok {
			break
		}
		if l.sealed+1-l.first >= LSN(len(l.segs)) {
			return errTooMany
		}
		if o.Visit != nil {
			o.Visit(&s)
		}
		l.note(&s)
		l.summarize(&s)
	}
	now := blk.Instant{}
	for l.Kick(now); l.durable < l.sealed; l.Kick(now) {
		if l.failed != nil {
			return l.failed
		}
		var err error
		if now, err = drive(); err != nil {
			return fmt.Errorf("seglog: write what RAM held: %w", err)
		}
	}
	return nil
}

// inRAM looks for the next segment where it would lie: at the head, or at the next chunk.
func (l *Log) inRAM(incarnation uint64) (Segment, bool) {
	c := Pos(l.super.ChunkBytes)
	for _, p := range [2]Pos{l.head, (l.head/c + 1) * c} {
		raw := l.ram[p%c : c]
		raw = raw[:min(int64(len(raw)), l.super.MaxSegmentBytes)]
		s, err := Parse(raw, len(raw))
		if err != nil || s.LSN != l.sealed+1 || s.PrevHash != l.hash || s.Incarnation != incarnation || s.Volume != l.super.Volume ||
			p+Pos(l.padded(s.Bytes)) > l.rec.free+Pos(l.super.RingBytes) {
			continue
		}
		s.Pos = p
		return s, true
	}
	return Segment{}, false
}

// Repair writes a segment that e says is damaged anew: raw is the peer's copy of it. It is taken only
// if it is the one that is missing: by its own checksums, its LSN and the hash of the one before.
func Repair(dev blk.Device, e *CorruptError, raw []byte, drive blk.Drive) error {
	sup, _, err := probe(dev, drive)
	if err != nil {
		return err
	}
	s, err := Parse(raw, int(sup.MaxSegmentBytes))
	switch {
	case err != nil:
		return err
	case s.LSN != e.LSN || s.Volume != sup.Volume || s.Bytes != len(raw):
		return fmt.Errorf("%w: LSN %d where %d is wanted", ErrOrder, s.LSN, e.LSN)
	case s.PrevHash != e.prev:
		return fmt.Errorf("%w: LSN %d", ErrChain, s.LSN)
	}
	l := Log{super: *sup, head: e.Pos}
	n := l.padded(s.Bytes)
	p := l.place(n)
	if int64(p-sup.tail())+n > sup.RingBytes {
		return fmt.Errorf("%w: LSN %d would overlap the start", ErrCorrupt, s.LSN)
	}
	buf, err := blk.Alloc(int(n))
	if err != nil {
		return err
	}
	defer blk.Free(buf)
	copy(buf, raw)
	if err := blk.Do(dev, &blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: l.DeviceOffset(p), Length: n, Buf: buf[:n]}, drive); err != nil {
		return fmt.Errorf("seglog: repair LSN %d: %w", s.LSN, err)
	}
	return nil
}
