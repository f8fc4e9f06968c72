package blktest

// Crash cuts the power: of every sector written since it was last durable, also by operations
// in flight, a seeded choice of its versions remains. It returns the disk after power came back;
// the old handle is dead, and its requests never complete.
func (d *Disk) Crash() *Disk {
	n := d.CopyCrashed(d.W)
	d.dead = true
	return n
}

// CopyCrashed is the disk as Crash would give it, in w, whose seed chooses; this one goes on.
func (d *Disk) CopyCrashed(w *World) *Disk {
	odds := []int{0, 1, 4, 7, 8}[w.Rand.IntN(5)]
	return d.cut(w, func() bool { return w.Rand.IntN(8) < odds })
}

// CrashKeeping is Crash where nothing is left to chance: all of what is not durable remains, or nothing.
func (d *Disk) CrashKeeping(all bool) *Disk {
	n := d.cut(d.W, func() bool { return all })
	d.dead = true
	return n
}

func (d *Disk) cut(w *World, keep func() bool) *Disk {
	n := NewDisk(w, d.Name, int64(len(d.seen)), d.MaxNs)
	n.info = d.info
	copy(n.durable, d.durable)
	for _, c := range d.cached {
		c.apply(n.durable, keep)
	}
	for _, f := range d.flight {
		if f.w != nil && !f.act.lose && !d.Dead {
			f.w.apply(n.durable, keep)
		}
	}
	copy(n.seen, n.durable)
	n.Faults = Faults{bad: d.bad}
	return n
}

// Kill takes the server away while the disk stays alive: of its operations in flight some are
// dropped, whole or in part, the others still land, whenever it is their time; nobody hears of
// them. Reopen gives the handle of the next server when Busy says that the old one is quiet.
func (d *Disk) Kill() {
	d.killed = true
	left := d.flight[:0]
	for _, f := range d.flight {
		switch d.W.Rand.IntN(8) {
		case 0, 1: // never left the server's ring
			f.gone = true
			continue
		case 2: // some of the parts that the kernel split it into had not been issued
			if f.w != nil {
				for i := d.W.Rand.IntN(len(f.w.void)); i < len(f.w.void); i++ {
					f.w.void[i] = true
				}
			}
		}
		left = append(left, f)
	}
	clear(d.flight[len(left):])
	d.flight = left
}

// Reopen gives the handle of a new server to the same disk; nothing may be in flight.
func (d *Disk) Reopen() *Disk {
	if len(d.flight) > 0 {
		panic("blktest: reopened while a dead server's I/O is in flight")
	}
	n := *d
	n.killed, n.flight, n.hung = false, nil, nil
	d.dead = true
	return &n
}

// Restore puts old media contents back, as when another copy of the disk is attached.
func (d *Disk) Restore(b []byte) {
	copy(d.seen, b)
	copy(d.durable, b)
	d.cached = nil
}

// RestoreRange puts old contents back at off only: a write that the disk lost after it said
// that it was durable.
func (d *Disk) RestoreRange(off int64, b []byte) {
	d.everywhere(off, int64(len(b)), func(media []byte, at int64) { copy(media, b[at-off:]) })
}

// RotRange flips bits in [off, off+n), silently and until it is written again.
func (d *Disk) RotRange(off, n int64) {
	d.Hits++
	d.everywhere(off, n, func(media []byte, _ int64) {
		for i := range media {
			media[i] ^= 0x55
		}
	})
}

// everywhere changes a range in all copies that the disk has of it: media is the part of one
// copy that lies in the range, and at where on the disk it begins.
func (d *Disk) everywhere(off, n int64, change func(media []byte, at int64)) {
	change(d.seen[off:off+n], off)
	change(d.durable[off:off+n], off)
	for _, c := range d.cached {
		if from, to := max(off, c.off), min(off+n, c.off+int64(len(c.data))); from < to {
			change(c.data[from-c.off:to-c.off], from)
		}
	}
}
