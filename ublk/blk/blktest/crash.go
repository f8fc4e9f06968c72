package blktest

// Crash cuts the power: of every sector written since it was last durable, also by operations
// in flight, a seeded choice of its versions remains. It returns the disk after power came back;
// the old handle is dead.
func (d *Disk) Crash() *Disk {
	n := NewDisk(d.W, d.Name, int64(len(d.seen)), d.MaxNs)
	n.info = d.info
	copy(n.durable, d.durable)
	odds := []int{0, 1, 4, 7, 8}[d.W.Rand.IntN(5)]
	keep := func() bool { return d.W.Rand.IntN(8) < odds }
	for _, c := range d.cached {
		c.apply(n.durable, keep)
	}
	for _, r := range d.order {
		if w := d.flight[r]; w != nil {
			w.apply(n.durable, keep)
		}
	}
	copy(n.seen, n.durable)
	n.Faults = d.Faults.media()
	d.dead = true
	return n
}

// Kill takes the server away: its operations in flight still land, nobody hears of them. It
// returns the handle of the next server; use it only when Busy says that the old one is quiet.
func (d *Disk) Kill() { d.killed = true }

// Reopen gives the handle of a new server to the same disk; nothing may be in flight.
func (d *Disk) Reopen() *Disk {
	if d.busy > 0 {
		panic("blktest: reopened while a dead server's I/O is in flight")
	}
	n := *d
	n.killed = false
	n.order, n.flight = nil, d.flight
	d.dead = true
	return &n
}

// Restore puts old media contents back, as when another copy of the disk is attached.
func (d *Disk) Restore(b []byte) {
	copy(d.seen, b)
	copy(d.durable, b)
	d.cached = nil
}
