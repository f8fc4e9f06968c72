package blktest

import (
	"fmt"
	"syscall"

	"github.com/robib-ublk/robib/ublk/blk"
)

// garbage is what the buffer of a read holds while it is in flight, and when it failed: nobody may take it for data.
const garbage = 0xdb

// Disk is a simulated disk with a volatile cache: a write is durable when it had FUA or when a
// Flush that began after its completion has completed; without VolatileCache in its Info, when it
// has completed. Completions come in any order, and requests in flight that overlap take effect
// in that order too. A request that breaks the blk contract is a panic.
type Disk struct {
	W     *World
	Name  string
	MaxNs int64 // longest latency
	Faults

	info    blk.Info
	seen    []byte   // what reads return
	durable []byte   // what a power cut certainly keeps
	cached  []*write // newest last
	flight  []*flight
	dead    bool // power is gone: nothing of this handle happens any more
	killed  bool // its server is gone: what is in flight may still land, nobody is told

	Reads, Writes, Flushes int
	Zeroings               int // of Writes, those that zeroed a range
	BytesRead              int64
}

// write is one write that a power cut may keep, drop or tear.
type write struct {
	off  int64
	data []byte
	void []bool // sectors that never reach the media, or that something durable has overwritten
}

// flight is one operation that has not completed.
type flight struct {
	r       *blk.Request
	op      blk.Op // as it was at Submit: a killed server's r is not looked at
	flags   blk.Flags
	w       *write
	act     action
	covered []*write // by a flush
	gone    bool     // dropped with its server
}

// NewDisk makes a disk of size zeros with 512-byte sectors, all latencies below maxNs.
func NewDisk(w *World, name string, size, maxNs int64) *Disk {
	return &Disk{W: w, Name: name, MaxNs: maxNs, seen: make([]byte, size), durable: make([]byte, size),
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
func (d *Disk) Busy() int { return len(d.flight) }

// Unsynced reports whether a power cut now may take or leave something.
func (d *Disk) Unsynced() bool {
	for _, f := range d.flight {
		if f.w != nil {
			return true
		}
	}
	return len(d.cached) > 0
}

// Submit takes a request; it completes in an event of the world.
func (d *Disk) Submit(r *blk.Request) {
	r.Err = 0
	if d.dead || d.killed {
		return
	}
	if why := breach(&d.info, r); why != "" {
		panic(fmt.Sprintf("blktest: disk %s: %s", d.Name, why))
	}
	d.W.Mark(uint64(r.Op), uint64(r.Offset), uint64(r.Length))
	f := &flight{r: r, op: r.Op, flags: r.Flags, act: d.judge(r)}
	switch r.Op {
	case blk.Write:
		f.w = &write{off: r.Offset, data: append([]byte(nil), r.Buf[:r.Length]...)}
	case blk.Discard, blk.WriteZeroes:
		f.w = &write{off: r.Offset, data: make([]byte, r.Length)}
	case blk.Flush:
		f.covered = append(f.covered, d.cached...)
	case blk.Read:
		spoil(r.Buf[:r.Length]) // the device may write there from now on
	}
	if f.w != nil {
		f.w.void = make([]bool, len(f.w.data)/512)
		if f.act.misdirect {
			f.w.off = f.act.to
		}
	}
	d.flight = append(d.flight, f)
	if f.act.hang {
		d.hung = append(d.hung, func() { d.finish(f) })
		return
	}
	d.W.After(1+d.W.Rand.Int64N(d.MaxNs)+f.act.delay, func() { d.finish(f) })
}

func (d *Disk) finish(f *flight) {
	if d.dead || f.gone {
		return
	}
	if d.W.Now < d.stuck {
		d.Hits++
		d.W.After(d.stuck-d.W.Now, func() { d.finish(f) })
		return
	}
	for i, o := range d.flight {
		if o == f {
			d.flight = append(d.flight[:i], d.flight[i+1:]...)
			break
		}
	}
	err := f.act.err
	if d.Dead {
		err = syscall.EIO
	}
	if f.w != nil && !d.Dead && !f.act.lose {
		d.land(f, err != 0)
	}
	if f.op == blk.Flush {
		d.flush(f, err)
	}
	if d.killed {
		return
	}
	if f.op == blk.Read {
		d.read(f.r, err)
	}
	d.W.Mark(uint64(err))
	f.r.Err = err
	f.r.Owner.Complete(f.r)
}

// land puts a write into the cache; one that failed may have landed in part.
func (d *Disk) land(f *flight, failed bool) {
	w := f.w
	if d.Writes++; f.op != blk.Write {
		d.Zeroings++
	}
	if failed {
		for i := range w.void {
			w.void[i] = d.W.Rand.IntN(2) == 0
		}
	}
	w.apply(d.seen, nil)
	d.heal(w)
	if d.info.VolatileCache && (failed || f.flags&blk.FUA == 0) {
		d.cached = append(d.cached, w)
		return
	}
	w.apply(d.durable, nil)
	// What is durable now cannot be undone by an older cached write.
	d.cached = prune(d.cached, func(c *write) bool {
		live := false
		for i := range c.void {
			k := i + int(c.off-w.off)/512
			c.void[i] = c.void[i] || k >= 0 && k < len(w.void) && !w.void[k]
			live = live || !c.void[i]
		}
		return live
	})
}

func (d *Disk) read(r *blk.Request, err syscall.Errno) {
	d.Reads++
	d.BytesRead += r.Length
	if err == 0 {
		copy(r.Buf[:r.Length], d.seen[r.Offset:r.Offset+r.Length])
		return
	}
	spoil(r.Buf[:r.Length])
}

func spoil(b []byte) {
	for i := range b {
		b[i] = garbage
	}
}

// flush makes durable what it covers. One that fails makes nothing durable, and some of what it
// covered never will be, whatever a later flush says: the cache has forgotten it.
func (d *Disk) flush(f *flight, err syscall.Errno) {
	d.Flushes++
	if d.Dead {
		return
	}
	if err != 0 {
		for _, c := range f.covered {
			for i := range c.void {
				c.void[i] = c.void[i] || d.W.Rand.IntN(2) == 0
			}
		}
		return
	}
	covered := make(map[*write]bool, len(f.covered))
	for _, c := range f.covered {
		covered[c] = true
	}
	// What another flush has saved meanwhile is not looked at again: newer data may be there now.
	d.cached = prune(d.cached, func(c *write) bool {
		if covered[c] {
			c.apply(d.durable, nil)
		}
		return !covered[c]
	})
}

func prune(s []*write, keep func(*write) bool) []*write {
	out := s[:0]
	for _, c := range s {
		if keep(c) {
			out = append(out, c)
		}
	}
	clear(s[len(out):])
	return out
}

// apply copies the sectors that are not void, and that keep says yes to, into media.
func (w *write) apply(media []byte, keep func() bool) {
	for i := range w.void {
		if !w.void[i] && (keep == nil || keep()) {
			copy(media[w.off+int64(i)*512:][:512], w.data[i*512:])
		}
	}
}
