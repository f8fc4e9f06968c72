package seglog

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// scanBytes is how far behind a hole a segment is looked for that declares it durable: with one
// append in flight of at most MaxSegmentBytes, the successor of a rotten segment lies within that
// much; the rest is for rot that spans many.
const scanBytes = 32 << 20

// readAhead is the size of recovery's reads.
const readAhead = 1 << 20

// Options of Open.
type Options struct {
	Incarnation uint64           // random, drawn at every start
	Visit       func(s *Segment) // called for each recovered segment in order; Raw is valid during the call
	Staged      func(b Staged)   // called for each block of a stage in order, after the segments; nil: nobody asks
	Deadline    int64            // ns within which the device must answer, else it has failed; 0: no limit
	Super       *Super           // for a log without a device: where the chain goes on

	// RAM is the ring's memory, ChunkBytes or more, where it shall outlive the process; it stays
	// its owner's. Replay is the incarnation whose segments it may hold beyond what the device has: they
	// become durable before Open returns. 0: none.
	RAM    []byte
	Replay uint64
}

// CorruptError says that a segment which was declared durable is not what was written. Nothing
// is cut: the peer may have it.
type CorruptError struct {
	LSN  LSN
	Pos  Pos
	By   LSN // the segment that declares it durable; 0: the superblock
	What error
	prev uint64 // hash of the segment before
}

func (e *CorruptError) Error() string {
	by := fmt.Sprintf("segment %d behind it", e.By)
	if e.By == 0 {
		by = "the superblock"
	}
	return fmt.Sprintf("segment %d was durable, says %s, but is damaged (%v): nothing was cut", e.LSN, by, e.What)
}

// Open recovers the log on dev, or begins one in RAM where dev is nil and Options.Super says how
// the chain goes on.
func Open(dev blk.Device, o Options, drive blk.Drive) (*Log, error) {
	l := &Log{dev: dev, incarn: o.Incarnation, deadline: o.Deadline, ram: o.RAM, lent: o.RAM != nil}
	if dev == nil {
		if o.Super == nil {
			return nil, errors.New("seglog: neither a device nor a superblock")
		}
		l.super = *o.Super
	} else {
		s, _, err := probe(dev, drive)
		if err != nil {
			return nil, err
		}
		l.super = *s
		if s.RingOffset+s.RingBytes > dev.Info().SizeBytes {
			return nil, fmt.Errorf("%w: the log was made for a larger device", ErrBadSuper)
		}
		// Slots alternate with Seq, so the next superblock goes into the other, perhaps damaged, one.
		l.sup.slot = int64(s.Seq+1) % 2
	}
	if err := l.allocate(); err != nil {
		return nil, err
	}
	if err := l.openDirty(drive); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.rewindTo(l.super.Start)
	if dev == nil {
		return l, nil
	}
	err := l.recover(&o, drive)
	if err == nil {
		err = l.replay(&o, drive)
	}
	if err == nil {
		err = l.openStage(&o, drive)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Log) allocate() (err error) {
	switch {
	case !l.lent:
		l.ram, err = blk.Alloc(int(l.super.ChunkBytes))
	case int64(len(l.ram)) < l.super.ChunkBytes:
		err = fmt.Errorf("seglog: %d bytes of RAM for a ring of %d", len(l.ram), l.super.ChunkBytes)
	}
	if err != nil {
		return err
	}
	if l.sup.buf, err = blk.Alloc(slotBytes); err != nil {
		return err
	}
	if err = l.openSummaries(); err != nil {
		return err
	}
	l.segs = make([]segInfo, max(l.super.RingBytes, l.super.ChunkBytes)/4096+16)
	return nil
}

// rewindTo makes the log empty, its next segment at p.
func (l *Log) rewindTo(p Point) {
	l.first, l.sealed, l.durable, l.appTo = p.LSN, p.LSN-1, p.LSN-1, p.LSN-1
	l.head, l.floor, l.hash, l.startHash = p.Pos, p.Pos, p.PrevHash, p.PrevHash
	l.declared, l.lastData = p.LSN-1, 0
	tail := p.Pos
	if l.super.StageBytes > 0 {
		tail = l.super.tail()
	}
	l.rec.free, l.rec.durable, l.rec.next = tail, tail, 0
}

func (l *Log) recover(o *Options, drive blk.Drive) error {
	w := walker{l: l, drive: drive}
	defer w.close()
	pages := pageReader{l: l, drive: drive, at: l.super.SumPos, ended: l.sums.off}
	l.sums.next = l.super.SumPos
	defer pages.close()
	take := func(s *Segment) error {
		if l.sealed+1-l.first >= LSN(len(l.segs)) {
			return errTooMany
		}
		if s.Wall == 0 && s.LSN == l.first { // a summary does not say
			if h, err := w.header(s.Pos, int64(s.Bytes)); err == nil && h.LSN == s.LSN {
				s.Wall = h.Wall
			}
		}
		if o.Visit != nil {
			o.Visit(s)
		}
		l.note(s)
		return nil
	}
	hole := error(nil)
	for {
		if pages.find(l.sealed + 1); !pages.ended && pages.first <= l.sealed+1 {
			n, err := pages.each(l.sealed+1, l.head, l.hash, take)
			if n == 0 || errors.Is(err, errNoPage) {
				pages.ended = true // it does not fit: the segments themselves tell
			} else if err != nil {
				return err
			}
			continue
		}
		s, err := w.next()
		if err != nil {
			if errors.Is(err, ErrReadError) {
				return err
			}
			hole = err
			break
		}
		if err := take(s); err != nil {
			return err
		}
		l.summarize(s)
	}
	l.recoveryBytes = w.Bytes + pages.Bytes
	if err := w.judge(hole); err != nil {
		return err
	}
	if w.torn && !(Planted && Plant == "merge-not-erased") {
		// They declare durable what is cut: nothing that comes after may be taken for declared by them.
		if err := l.eraseTorn(l.head, drive); err != nil {
			return err
		}
	}
	// What was read back may lie in the device's volatile cache only: a killed server's last
	// append has completed without our having seen it.
	if err := flush(l.dev, drive); err != nil {
		return err
	}
	l.durable, l.appTo, l.floor = l.sealed, l.sealed, l.head
	return nil
}

// RecoveryBytes is how much of the device Open read to recover the log.
func (l *Log) RecoveryBytes() int64 { return l.recoveryBytes }

// walker reads the ring in large steps.
type walker struct {
	l     *Log
	drive blk.Drive
	buf   []byte
	at    int64 // device offset of buf
	n     int64 // valid bytes in buf
	Bytes int64 // read in all
	torn  bool  // judge found segments of a merged append behind the hole
}

func (w *walker) close() { blk.Free(w.buf) }

// bytes gives n bytes at position p, which lie in one chunk.
func (w *walker) bytes(p Pos, n int64) ([]byte, error) {
	l := w.l
	off := l.DeviceOffset(p)
	if w.buf == nil {
		var err error
		if w.buf, err = blk.Alloc(int(l.super.MaxSegmentBytes + min(readAhead, l.super.RingBytes))); err != nil {
			return nil, err
		}
	}
	if off < w.at || off+n > w.at+w.n {
		block := int64(l.super.BlockBytes)
		from := off / block * block
		end := l.super.RingOffset + l.super.RingBytes
		want := max(min(int64(readAhead), end-from), min((off-from+n+block-1)/block*block, end-from))
		r := &blk.Request{Op: blk.Read, Offset: from, Length: want, Buf: w.buf[:want]}
		if err := blk.Do(l.dev, r, w.drive); err != nil {
			return nil, fmt.Errorf("%w at byte %d: %w", ErrReadError, from, err)
		}
		w.at, w.n = from, want
		w.Bytes += want
	}
	return w.buf[off-w.at : off-w.at+n], nil
}

// next gives the segment after the newest one known, or why there is none: it is looked for
// where that one ends and, if a chunk ends behind it, at the next chunk.
func (w *walker) next() (*Segment, error) {
	l := w.l
	s, err := w.try(l.head)
	if err == nil || errors.Is(err, ErrReadError) {
		return s, err
	}
	if c := Pos(l.super.ChunkBytes); l.head%c != 0 {
		if s, e := w.try((l.head/c + 1) * c); e == nil || errors.Is(e, ErrReadError) {
			return s, e
		}
	}
	return nil, err
}

// try looks for the next segment at p.
func (w *walker) try(p Pos) (*Segment, error) {
	l := w.l
	c := int64(l.super.ChunkBytes)
	left := c - int64(p%Pos(c))
	if int64(p-l.super.tail()) >= l.super.RingBytes {
		return nil, fmt.Errorf("%w: the ring is full", ErrCorrupt)
	}
	s, err := w.header(p, left)
	if err != nil {
		return nil, err
	}
	stale := Planted && Plant == "apply-stale"
	switch {
	case s.LSN != l.sealed+1 && !stale:
		return nil, fmt.Errorf("%w: LSN %d where %d is due", ErrOrder, s.LSN, l.sealed+1)
	case s.Volume != l.super.Volume:
		return nil, ErrVolume
	case s.PrevHash != l.hash && !stale && !(Planted && Plant == "skip-chain"):
		return nil, fmt.Errorf("%w: LSN %d", ErrChain, s.LSN)
	case int64(p-l.super.tail())+int64(s.Bytes) > l.super.RingBytes:
		return nil, fmt.Errorf("%w: LSN %d would overlap the start", ErrCorrupt, s.LSN)
	}
	raw, err := w.bytes(p, int64(s.Bytes))
	if err != nil {
		return nil, err
	}
	if s, err = Parse(raw, int(left)); err != nil {
		return nil, err
	}
	s.Pos = p
	if stale {
		s.LSN = l.sealed + 1
	}
	return &s, nil
}

// header reads and checks the header at p; left is what the chunk has from there.
func (w *walker) header(p Pos, left int64) (Segment, error) {
	if left < fixedBytes {
		return Segment{}, fmt.Errorf("%w: the chunk ends", ErrCorrupt)
	}
	limit := int(min(left, w.l.super.MaxSegmentBytes))
	b, err := w.bytes(p, min(left, sectorBytes))
	if err != nil {
		return Segment{}, err
	}
	s, err := ParseHeader(b, limit)
	if err == errShort {
		if b, err = w.bytes(p, int64(s.HeaderBytes)); err == nil {
			s, err = ParseHeader(b, limit)
		}
	}
	return s, err
}

// judge tells a torn tail from corruption: behind the hole a valid segment that declares it
// durable is looked for.
func (w *walker) judge(hole error) error {
	l := w.l
	h := l.sealed + 1
	if l.super.Declared >= h && !(Planted && Plant == "declare-zero") {
		return &CorruptError{h, l.head, 0, hole, l.hash}
	}
	c := Pos(l.super.ChunkBytes)
	end := l.super.tail() + Pos(l.super.RingBytes)
	limit := min(end, l.head+scanBytes)
	for p := l.head; p < limit; p += sectorBytes {
		s, err := w.header(p, int64(c-p%c))
		if errors.Is(err, ErrReadError) {
			// Unreadable, so nothing can be said of it; what is behind still counts.
			continue
		}
		if err == nil && s.LSN > h && s.Volume == l.super.Volume && s.Term.Number >= l.super.MinTerm && s.Durable >= h {
			if l.ofLast(p) {
				w.torn = true
				continue
			}
			return &CorruptError{h, l.head, s.LSN, hole, l.hash}
		}
	}
	return nil
}

// Cut durably removes every segment after lsn: their headers are overwritten, so that none can
// be followed or declare another one durable. The caller rebuilds what it derived from them.
func (l *Log) Cut(after LSN, drive blk.Drive) error {
	return l.cut(after, func(*Super) {}, drive)
}

// cut is Cut where change goes into the superblock that is durable before the first segment goes.
func (l *Log) cut(after LSN, change func(s *Super), drive blk.Drive) error {
	if after < l.first-1 || after > l.sealed {
		return fmt.Errorf("seglog: cannot cut after %d: the log holds %d to %d", after, l.first, l.sealed)
	}
	if l.Busy() {
		return errors.New("seglog: cut with an append in flight")
	}
	p, newest, end := l.pointAfter(after), l.sealed, l.head
	l.sealed, l.durable, l.appTo, l.hash, l.head = after, after, after, p.PrevHash, p.Pos
	// RAM from here on is written anew; what lies before may have been overwritten by the cut tail.
	l.floor = l.head
	l.lastData, l.declared = min(l.lastData, after), min(l.declared, after)
	for _, r := range l.readers {
		r.next, r.kept, r.err = min(r.next, after+1), min(r.kept, after), nil
		r.drop()
	}
	if l.dev == nil {
		return nil
	}
	buf, err := blk.Alloc(int(l.super.BlockBytes))
	if err != nil {
		return err
	}
	defer blk.Free(buf)
	// First nothing must declare them durable any more, or a crash half way is corruption.
	if err := l.Sync(l.Update(func(s *Super) {
		s.Declared = min(s.Declared, after)
		l.endSummaries()
		change(s)
	}), drive); err != nil {
		return err
	}
	if err := l.eraseTorn(end, drive); err != nil {
		return err
	}
	for lsn := newest; lsn > after; lsn-- {
		r := &blk.Request{Op: blk.Write, Flags: blk.FUA, Offset: l.DeviceOffset(l.info(lsn).pos), Length: int64(l.super.BlockBytes), Buf: buf}
		if err := blk.Do(l.dev, r, drive); err != nil {
			l.failed = fmt.Errorf("seglog: cut: %w", err)
			return l.failed
		}
	}
	return nil
}

// eraseTorn overwrites what an append that was torn may have left behind p, where the chain ended: its headers
// may be whole.
func (l *Log) eraseTorn(p Pos, drive blk.Drive) error {
	buf, err := blk.Alloc(int(l.padded(int(l.super.MaxSegmentBytes))))
	if err != nil {
		return err
	}
	defer blk.Free(buf)
	c, end := Pos(l.super.ChunkBytes), l.rec.free+Pos(l.ringBytes())
	for _, at := range [2]Pos{p, (p/c + 1) * c} {
		to := min(at+Pos(len(buf)), (at/c+1)*c, end)
		if at >= to {
			continue
		}
		if err := zero(l.dev, l.DeviceOffset(at), int64(to-at), buf, drive); err != nil {
			return fmt.Errorf("seglog: cut: %w", err)
		}
	}
	return nil
}

// Reset makes the log empty so that it goes on after LSN p.LSN-1 of the primary's chain, whose
// header hash is p.PrevHash; p.Pos is not looked at. change may set further fields of the superblock, which
// are durable before anything of the log is lost. What a diverged history left in the ring is overwritten.
func (l *Log) Reset(p Point, change func(s *Super), drive blk.Drive) error {
	if l.Busy() {
		return errors.New("seglog: reset with an append in flight")
	}
	old := l.sealed
	if l.dev != nil && old >= p.LSN {
		// Newest first, or a power cut would leave segments that declare durable what is gone.
		if err := l.cut(max(l.first, l.super.Start.LSN)-1, change, drive); err != nil {
			return err
		}
		buf, err := blk.Alloc(int(min(readAhead, l.super.RingBytes)))
		if err != nil {
			return err
		}
		defer blk.Free(buf)
		if err := zero(l.dev, l.super.RingOffset, l.super.RingBytes, buf, drive); err != nil {
			return fmt.Errorf("seglog: reset: %w", err)
		}
	}
	p.Pos = l.head
	return l.restart(p, func(s *Super) {
		s.noStage()
		change(s)
	}, drive)
}

// restart makes the log empty, its next segment at p, durably with the superblock that change goes into.
func (l *Log) restart(p Point, change func(s *Super), drive blk.Drive) error {
	t := l.Update(func(s *Super) {
		s.Start, s.Declared = p, 0
		l.endSummaries()
		change(s)
	})
	l.rewindTo(p)
	for _, r := range l.readers {
		r.next, r.kept, r.err = p.LSN, p.LSN-1, nil
		r.drop()
	}
	return l.Sync(t, drive)
}

// Sync drives until the superblock change with ticket t is durable.
func (l *Log) Sync(t uint64, drive blk.Drive) error {
	now := blk.Instant{Mono: l.now}
	for l.Kick(now); l.Updated() < t; l.Kick(now) {
		if l.failed != nil {
			return l.failed
		}
		var err error
		if now, err = drive(); err != nil {
			return err
		}
	}
	return nil
}
