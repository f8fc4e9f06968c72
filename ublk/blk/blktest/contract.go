package blktest

import (
	"bytes"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Contract checks that a device of at least 4 MiB keeps the blk contract. It overwrites the
// device and leaves it open, with nothing in flight. It may run on another goroutine than the
// test's, as a device on a ring needs.
func Contract(t *testing.T, dev blk.Device, drive blk.Drive) {
	t.Helper()
	info := dev.Info()
	if info.SizeBytes < 4<<20 || info.LogicalBytes < 512 || info.PhysicalBytes < info.LogicalBytes || info.SizeBytes%int64(info.LogicalBytes) != 0 {
		t.Fatalf("info: %+v", info)
	}
	mem, err := blk.Alloc(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(mem)
	c := &contract{T: t, Check: NewCheck(dev, t.Errorf), info: info, drive: drive, mem: mem[:1<<20], back: mem[1<<20:], align: int64(info.LogicalBytes)}
	c.sizes()
	c.ends()
	c.zeroes()
	c.concurrent(64)
	c.concurrent(300)
	c.random()
	if c.InFlight() != 0 {
		t.Errorf("%d requests never came back", c.InFlight())
	}
}

type contract struct {
	*testing.T
	*Check
	info      blk.Info
	drive     blk.Drive
	mem, back []byte
	align     int64
}

func (c *contract) do(op blk.Op, flags blk.Flags, off int64, b []byte, n int64) {
	c.Helper()
	if err := blk.Do(c.Check, &blk.Request{Op: op, Flags: flags, Offset: off, Length: n, Buf: b}, c.drive); err != nil {
		c.Fatalf("%v of [%d, +%d): %v", op, off, n, err)
	}
}

// writeRead writes stamped data, perhaps FUA or flushed, and reads it back.
func (c *contract) writeRead(off, n int64, value uint64, flags blk.Flags, flush bool) {
	c.Helper()
	Fill(c.mem[:n], off, value)
	c.do(blk.Write, flags, off, c.mem[:n], n)
	if flush {
		c.do(blk.Flush, 0, 0, nil, 0)
	}
	for i := range c.back[:n] {
		c.back[i] = garbage
	}
	c.do(blk.Read, 0, off, c.back[:n], n)
	if !bytes.Equal(c.mem[:n], c.back[:n]) {
		c.Fatalf("%d bytes at %d did not come back", n, off)
	}
}

// sizes: from one block to 512 KiB, the longest that a device must take, with a buffer that is
// on no larger boundary than a block.
func (c *contract) sizes() {
	for i, n := range []int64{c.align, 4096, 4096 + c.align, 64 << 10, 256<<10 + c.align, 512 << 10} {
		n = max(n, c.align) / c.align * c.align
		off := min(int64(i)<<19+c.align, c.info.SizeBytes-n)
		c.writeRead(off, n, uint64(i)+1, blk.Flags(i%2)*blk.FUA, i%3 == 0)
	}
	mem, back := c.mem, c.back
	c.mem, c.back = c.mem[c.align:], c.back[c.align:]
	c.writeRead(0, c.align, 50, 0, false)
	c.mem, c.back = mem, back
}

// ends: the first and last block, and the last block as the tail of a longer request.
func (c *contract) ends() {
	c.writeRead(0, c.align, 98, 0, false)
	c.writeRead(c.info.SizeBytes-c.align, c.align, 99, 0, true)
	n := (64<<10 + c.align) / c.align * c.align
	c.writeRead(c.info.SizeBytes-n, n, 100, blk.FUA, false)
}

// zeroes: a range that was discarded or zeroed reads as zeros, its neighbours do not change.
func (c *contract) zeroes() {
	const at, n = 2 << 20, 64 << 10
	rows := []struct {
		op      blk.Op
		flags   blk.Flags
		offered bool
	}{{blk.Discard, 0, c.info.Discard}, {blk.WriteZeroes, 0, c.info.WriteZeroes}, {blk.WriteZeroes, blk.NoUnmap, c.info.WriteZeroes}}
	for i, z := range rows {
		if !z.offered {
			continue
		}
		for _, part := range []struct{ off, n int64 }{{at, n}, {at + c.align, c.align}, {at + 3*c.align, n - 8*c.align}} {
			c.writeRead(at-c.align, n+2*c.align, uint64(200+i), 0, false)
			c.do(z.op, z.flags, part.off, nil, part.n)
			clear(c.mem[part.off-at+c.align:][:part.n])
			c.do(blk.Read, 0, at-c.align, c.back[:n+2*c.align], n+2*c.align)
			if !bytes.Equal(c.mem[:n+2*c.align], c.back[:n+2*c.align]) {
				c.Fatalf("%v (%d) of [%d, +%d): wrong sectors are zero", z.op, z.flags, part.off, part.n)
			}
		}
	}
}

// concurrent keeps more requests in flight than the device may have room for.
func (c *contract) concurrent(n int) {
	c.Helper()
	size := max(c.align, 1<<20/int64(n)/c.align*c.align)
	n = min(n, int(int64(len(c.mem))/size))
	back, errs := 0, 0
	owner := completer(func(r *blk.Request) {
		back++
		if r.Err != 0 {
			errs++
		}
	})
	reqs := make([]blk.Request, n)
	submit := func(op blk.Op) {
		for i := range reqs {
			at := int64(i) * size
			reqs[i].Op, reqs[i].Offset, reqs[i].Length, reqs[i].Buf, reqs[i].Owner = op, at, size, c.mem[at:at+size], owner
			c.Submit(&reqs[i])
		}
		now := blk.Instant{}
		for c.Kick(now); back < n; c.Kick(now) {
			var err error
			if now, err = c.drive(); err != nil {
				c.Fatal(err)
			}
		}
		if back != n || errs != 0 {
			c.Fatalf("%d completions of %d, %d errors", back, n, errs)
		}
		back = 0
	}
	for i := range reqs {
		Fill(c.mem[int64(i)*size:][:size], int64(i)*size, uint64(i)+1000)
	}
	submit(blk.Write)
	clear(c.mem)
	submit(blk.Read)
	for i := range uint64(int64(n) * size / 512) {
		if v, err := Value(c.mem[i*512:(i+1)*512], i); err != nil || v != i*512/uint64(size)+1000 {
			c.Fatalf("sector %d: write %d, %v", i, v, err)
		}
	}
}

// random is a seeded load that the oracle judges, on a region that begins as zeros.
func (c *contract) random() {
	const region, half = 1 << 20, 512 << 10
	clear(c.mem)
	for off := int64(0); off < region; off += half {
		c.do(blk.Write, 0, off, c.mem[:half], half)
	}
	l := NewWorkload(NewWorld(1), c.Check, NewOracle(region), 24, c.Errorf)
	l.Region, l.Align, l.Left, l.Discards, l.Zeroes = region, c.align, 600, 5, 5
	if err := l.Run(c.drive); err != nil {
		c.Fatal(err)
	}
	for off := int64(0); off < region; off += half {
		c.do(blk.Read, 0, off, c.mem[off:off+half], half)
	}
	if err := l.Oracle.Pin(c.mem, 0); err != nil {
		c.Fatal(err)
	}
}

type completer func(*blk.Request)

func (f completer) Complete(r *blk.Request) { f(r) }
