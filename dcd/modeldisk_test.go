package dcd

import (
	"bytes"

	"github.com/robib-ublk/robib/ublk/blk"
)

// modelDisk is a disk whose writes and flushes complete when the model says so; reads at once. It
// has a volatile cache.
type modelDisk struct {
	seen   []byte
	media  []byte   // what a power cut certainly keeps
	cached []change // done, but not durable
	flight []inFlight
}

type change struct {
	off  int64
	data []byte
}

type inFlight struct {
	change
	r      *blk.Request
	covers int // of cached, by a flush
}

func newModelDisk(b []byte, size int) *modelDisk {
	d := &modelDisk{seen: make([]byte, size), media: make([]byte, size)}
	copy(d.seen, b)
	copy(d.media, b)
	return d
}

func (d *modelDisk) Info() blk.Info {
	return blk.Info{SizeBytes: int64(len(d.media)), LogicalBytes: 512, PhysicalBytes: 512, VolatileCache: true, Discard: true, WriteZeroes: true, Identity: "model"}
}

func (d *modelDisk) Kick(blk.Instant) int64 { return blk.Never }
func (d *modelDisk) Close() error           { return nil }

func (d *modelDisk) Submit(r *blk.Request) {
	r.Err = 0
	f := inFlight{r: r, change: change{off: r.Offset}}
	switch r.Op {
	case blk.Read:
		copy(r.Buf[:r.Length], d.seen[r.Offset:r.Offset+r.Length])
		r.Owner.Complete(r)
		return
	case blk.Write:
		f.data = bytes.Clone(r.Buf[:r.Length])
	case blk.Flush:
		f.covers = len(d.cached)
	default:
		f.data = make([]byte, r.Length)
	}
	d.flight = append(d.flight, f)
}

// complete ends operation i of those in flight.
func (d *modelDisk) complete(i int) {
	f := d.flight[i]
	d.flight = append(d.flight[:i:i], d.flight[i+1:]...)
	switch {
	case f.r.Op == blk.Flush:
		for _, c := range d.cached[:f.covers] {
			copy(d.media[c.off:], c.data)
		}
		d.cached = d.cached[f.covers:]
		for i := range d.flight {
			d.flight[i].covers = max(d.flight[i].covers-f.covers, 0)
		}
	case f.r.Op == blk.Write && !bytes.Equal(f.data, f.r.Buf[:f.r.Length]):
		fail("the data of a write of [%d, +%d) changed in flight", f.off, len(f.data))
	default:
		copy(d.seen[f.off:], f.data)
		if f.r.Flags&blk.FUA == 0 {
			d.cached = append(d.cached, f.change)
			break
		}
		copy(d.media[f.off:], f.data)
		for _, c := range d.cached {
			if c.off < f.off+int64(len(f.data)) && f.off < c.off+int64(len(c.data)) {
				fail("a FUA write over one that is cached: the model's disk cannot tell")
			}
		}
	}
	f.r.Owner.Complete(f.r)
}

// all completes what is in flight now.
func (d *modelDisk) all() {
	for n := len(d.flight); n > 0; n-- {
		d.complete(0)
	}
}

// tears are the parts of a write that a power cut may leave, as far as they can make a difference:
// nothing, all, the first sector or all but it, all but the last.
func (c *change) tears(few bool) [][2]int {
	n := len(c.data)
	out := [][2]int{{0, 0}, {0, n}}
	if !few && n > 512 {
		out = append(out, [2]int{0, 512}, [2]int{512, n})
		if n > 1024 {
			out = append(out, [2]int{0, n - 512})
		}
	}
	return out
}

// crashes gives every image that a power cut may leave.
func (d *modelDisk) crashes(give func(b []byte)) {
	var open []change
	open = append(open, d.cached...)
	for _, f := range d.flight {
		if f.data != nil {
			open = append(open, f.change)
		}
	}
	b := bytes.Clone(d.media)
	var pick func(i int)
	pick = func(i int) {
		if i == len(open) {
			give(b)
			return
		}
		c := &open[i]
		was := bytes.Clone(b[c.off : c.off+int64(len(c.data))])
		for _, t := range c.tears(len(open) > 3) {
			copy(b[c.off:], was)
			copy(b[c.off+int64(t[0]):], c.data[t[0]:t[1]])
			pick(i + 1)
		}
		copy(b[c.off:], was)
	}
	pick(0)
}
