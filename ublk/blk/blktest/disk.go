package blktest

import (
	"syscall"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Disk is a simulated disk with a volatile cache: a write is durable when it had FUA or when a
// Flush that began after its completion has completed. Completions come in any order.
type Disk struct {
	W     *World
	Name  string
	MaxNs int64 // longest latency
	Faults

	info    blk.Info
	seen    []byte // what reads return
	durable []byte // what a power cut certainly keeps
	cached  []*write
	flight  map[*blk.Request]*write
	order   []*blk.Request // of flight, so that the seed alone decides
	busy    int
	dead    bool // power is gone: nothing of this handle happens any more
	killed  bool // its server is gone: what is in flight still lands, nobody is told

	Reads, Writes, Flushes int
	BytesRead              int64
}

// write is one write that a power cut may keep, drop or tear.
type write struct {
	off  int64
	data []byte
	void []bool // sectors that something durable has overwritten since
}

// NewDisk makes a disk of size zeros with 512-byte sectors, all latencies below maxNs.
func NewDisk(w *World, name string, size, maxNs int64) *Disk {
	return &Disk{W: w, Name: name, MaxNs: maxNs, seen: make([]byte, size), durable: make([]byte, size), flight: map[*blk.Request]*write{},
		info: blk.Info{SizeBytes: size, LogicalBytes: 512, PhysicalBytes: 512, VolatileCache: true, Identity: "sim-" + name}}
}

// Info describes the disk.
func (d *Disk) Info() blk.Info { return d.info }

// SetInfo changes what Info says.
func (d *Disk) SetInfo(f func(*blk.Info)) { f(&d.info) }

// Kick has nothing to do.
func (d *Disk) Kick(blk.Instant) int64 { return blk.Never }

// Close has nothing to wait for.
func (d *Disk) Close() error { return nil }

// Bytes is what a read would see now; for oracles.
func (d *Disk) Bytes() []byte { return d.seen }

// Busy counts operations in flight, also those of a killed server.
func (d *Disk) Busy() int { return d.busy }

// Submit takes a request; it completes in an event of the world.
func (d *Disk) Submit(r *blk.Request) {
	r.Err = 0
	if d.dead || d.killed {
		return
	}
	d.W.Mark(uint64(r.Op), uint64(r.Offset), uint64(r.Length))
	act := d.judge(r)
	var w *write
	switch r.Op {
	case blk.Write:
		w = &write{off: r.Offset, data: append([]byte(nil), r.Buf[:r.Length]...)}
	case blk.Discard, blk.WriteZeroes:
		w = &write{off: r.Offset, data: make([]byte, r.Length)}
	}
	if w != nil {
		w.void = make([]bool, len(w.data)/512)
	}
	d.flight[r] = w
	d.order = append(d.order, r)
	d.busy++
	upTo := len(d.cached)
	var covered []*write
	if r.Op == blk.Flush {
		covered = append(covered, d.cached[:upTo]...)
	}
	finish := func() { d.finish(r, w, act, covered) }
	if act.hang {
		d.hung = append(d.hung, finish)
		return
	}
	d.W.After(1+d.W.Rand.Int64N(d.MaxNs)+act.delay, finish)
}

func (d *Disk) finish(r *blk.Request, w *write, act action, covered []*write) {
	if d.dead {
		return
	}
	d.busy--
	delete(d.flight, r)
	for i, o := range d.order {
		if o == r {
			d.order = append(d.order[:i], d.order[i+1:]...)
			break
		}
	}
	err := act.err
	if d.Dead {
		err = syscall.EIO
	}
	if w != nil && !d.Dead {
		d.land(r, w, err != 0)
	}
	if !d.killed || r.Op == blk.Flush {
		d.serve(r, err, covered)
	}
	if d.killed {
		return
	}
	r.Err = err
	r.Owner.Complete(r)
}

// land puts a write into the cache; one that failed may have landed in part.
func (d *Disk) land(r *blk.Request, w *write, failed bool) {
	d.Writes++
	if failed {
		for i := range w.void {
			w.void[i] = d.W.Rand.IntN(2) == 0
		}
	}
	w.apply(d.seen, nil)
	if r.Flags&blk.FUA == 0 || failed {
		d.cached = append(d.cached, w)
		return
	}
	w.apply(d.durable, nil)
	// What is durable now cannot be undone by an older cached write.
	for _, c := range d.cached {
		for i := range c.void {
			at := c.off + int64(i)*512
			if at >= w.off && at < w.off+int64(len(w.data)) {
				c.void[i] = true
			}
		}
	}
}

func (d *Disk) serve(r *blk.Request, err syscall.Errno, covered []*write) {
	switch r.Op {
	case blk.Read:
		d.Reads++
		d.BytesRead += r.Length
		if err == 0 {
			copy(r.Buf[:r.Length], d.seen[r.Offset:r.Offset+r.Length])
			d.damage(r)
		}
	case blk.Flush:
		d.Flushes++
		if err != 0 || d.Dead {
			return
		}
		done := map[*write]bool{}
		for _, c := range covered {
			c.apply(d.durable, nil)
			done[c] = true
		}
		keep := d.cached[:0]
		for _, c := range d.cached {
			if !done[c] {
				keep = append(keep, c)
			}
		}
		d.cached = keep
	}
}

// apply copies the sectors that are not void, and that keep says yes to, into media.
func (w *write) apply(media []byte, keep func() bool) {
	for i := range w.void {
		if !w.void[i] && (keep == nil || keep()) {
			copy(media[w.off+int64(i)*512:][:512], w.data[i*512:])
		}
	}
}
