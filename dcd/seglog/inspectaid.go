package seglog

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/robib-ublk/robib/ublk/blk"
)

// digest stands for all that a summary says of a segment.
func digest(g *Segment, buf []byte) (sum uint64, _ []byte) {
	b := buf[:0]
	for _, v := range []uint64{g.Pos, uint64(g.Bytes), uint64(g.HeaderBytes), g.Durable, g.Hash, uint64(g.Records)} {
		b = le.AppendUint64(b, v)
	}
	for i := range g.Records {
		r := g.Record(i)
		b = binary.AppendUvarint(b, uint64(r.Length)<<4|uint64(r.Kind&7)<<1|uint64(r.Flags&1))
		b = binary.AppendVarint(b, r.Offset)
	}
	return xxhash.Sum64(b), b
}

// aids checks what recovery believes beside the segments: the summary pages, held against the segments
// that were walked, and the dirty map.
type aids struct {
	l      *Log
	drive  blk.Drive
	report func(Finding)
	walked []uint64 // digests, from the recovery start on
	sum    *Summary
	buf    []byte
}

// walk takes a segment as it is on the device.
func (a *aids) walk(g *Segment) {
	var d uint64
	d, a.buf = digest(g, a.buf)
	a.walked = append(a.walked, d)
}

func (a *aids) bad(format string, args ...any) {
	a.report(Finding{Bad: true, Text: fmt.Sprintf(format, args...)})
}

// summaries reads every page that recovery would.
func (a *aids) summaries() error {
	l := a.l
	if err := l.openSummaries(); err != nil {
		return err
	}
	s := &l.sums
	defer func() { blk.Free(s.out); s.out = nil }()
	if s.off {
		return nil
	}
	area := Pos(l.super.CheckpointBytes / s.unit * s.unit)
	p := pageReader{l: l, drive: a.drive, at: l.super.SumPos}
	defer p.close()
	for {
		at := p.at
		skipped, torn := p.step()
		switch {
		case torn && p.ended:
			a.report(Finding{Text: fmt.Sprintf("the page at byte %d of the summaries is torn, or damaged: recovery reads the segments themselves instead", at%area)})
		case torn, skipped > 0 && at != l.super.SumPos: // the first ones may have been given up already
			a.bad("the page at byte %d of the summaries is damaged: recovery reads the segments themselves instead", at%area)
		}
		if p.ended {
			break
		}
		a.sum.SummaryPages++
		a.page(&p)
	}
	a.sum.ReadBytes += p.Bytes
	return nil
}

// page holds what a page says against the segments.
func (a *aids) page(p *pageReader) {
	start := a.l.super.Start.LSN
	wrong := LSN(0)
	n, err := p.each(p.first, p.from, p.prev, func(g *Segment) error {
		if g.LSN < start || wrong != 0 {
			return nil
		}
		var d uint64
		if d, a.buf = digest(g, a.buf); g.LSN-start >= LSN(len(a.walked)) || a.walked[g.LSN-start] != d {
			wrong = g.LSN
			return nil
		}
		a.sum.Summarized++
		return nil
	})
	switch {
	case wrong != 0:
		a.bad("the summary of segments %d to %d is not what the log has of segment %d, and recovery would believe it", p.first, p.last, wrong)
	case err != nil:
		a.bad("the summary of segments %d to %d cannot be understood behind the first %d: %v", p.first, p.last, n, err)
	}
}

// dirty reads the dirty map, if there is one.
func (a *aids) dirty() error {
	l := a.l
	if l.super.Marks&DirtyMap == 0 {
		return nil
	}
	d := &l.dirty
	err := l.openDirty(a.drive)
	defer d.close()
	if err != nil {
		return err
	}
	a.sum.ReadBytes += int64(len(d.mem))
	a.sum.DirtyMapPages, a.sum.PeerLacksBytes = len(d.stale), d.Bytes()
	if !d.headGood() {
		a.bad("the head of the dirty map is damaged: it is good for no peer, which gets everything")
	}
	for i := 1; i < len(d.stale); i++ {
		if _, damaged := d.page(i); damaged {
			from := int64(i-1) * dirtyBits * d.unit
			a.bad("page %d of the dirty map is damaged: all of the volume from byte %d to %d counts as what the peer lacks", i, from, min(from+dirtyBits*d.unit, l.super.DiskBytes))
		}
	}
	return nil
}
