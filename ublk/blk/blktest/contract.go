package blktest

import (
	"bytes"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Contract checks that a device of at least 4 MiB keeps the blk contract. It overwrites the device.
func Contract(t *testing.T, dev blk.Device, drive blk.Drive) {
	t.Helper()
	c := NewCheck(dev, t.Errorf)
	info := dev.Info()
	if info.SizeBytes < 4<<20 || info.LogicalBytes < 512 || info.PhysicalBytes < info.LogicalBytes {
		t.Fatalf("info: %+v", info)
	}
	mem, err := blk.Alloc(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(mem)
	do := func(op blk.Op, flags blk.Flags, off int64, b []byte, n int64) {
		t.Helper()
		if err := blk.Do(c, &blk.Request{Op: op, Flags: flags, Offset: off, Length: n, Buf: b}, drive); err != nil {
			t.Fatalf("%v of [%d, +%d): %v", op, off, n, err)
		}
	}
	align := int64(info.LogicalBytes)
	half := mem[1<<20:]
	for i, n := range []int64{align, 4096, 64 << 10, 512 << 10} {
		off := int64(i)<<20 + align
		n = min(n, info.SizeBytes-off)
		Fill(mem[:n], off, uint64(i)+1)
		do(blk.Write, blk.Flags(i%2)*blk.FUA, off, mem[:n], n)
		do(blk.Read, 0, off, half[:n], n)
		if !bytes.Equal(mem[:n], half[:n]) {
			t.Fatalf("%d bytes at %d did not come back", n, off)
		}
	}
	last := info.SizeBytes - align
	Fill(mem[:align], last, 99)
	do(blk.Write, 0, last, mem[:align], align)
	do(blk.Flush, 0, 0, nil, 0)
	do(blk.Read, 0, last, half[:align], align)
	if !bytes.Equal(mem[:align], half[:align]) {
		t.Fatal("the last block did not come back")
	}
	for _, z := range []struct {
		op      blk.Op
		offered bool
	}{{blk.Discard, info.Discard}, {blk.WriteZeroes, info.WriteZeroes}} {
		if z.offered {
			do(z.op, 0, 2<<20, nil, 64<<10)
		}
	}
	if info.WriteZeroes {
		do(blk.Read, 0, 2<<20, half[:64<<10], 64<<10)
		if len(bytes.Trim(half[:64<<10], "\x00")) > 0 {
			t.Fatal("zeroed range does not read as zeros")
		}
	}
	concurrent(t, c, drive, mem)
	if c.InFlight() != 0 {
		t.Errorf("%d requests never came back", c.InFlight())
	}
}

// concurrent keeps more requests in flight than the device may have room for.
func concurrent(t *testing.T, c *Check, drive blk.Drive, mem []byte) {
	t.Helper()
	const n = 64
	var back int
	var errs int
	owner := completer(func(r *blk.Request) {
		back++
		if r.Err != 0 {
			errs++
		}
	})
	reqs := make([]blk.Request, n)
	for i := range reqs {
		b := mem[i*8192 : (i+1)*8192]
		Fill(b, int64(i)*8192, uint64(i)+1000)
		reqs[i] = blk.Request{Op: blk.Write, Offset: int64(i) * 8192, Length: 8192, Buf: b, Owner: owner}
		c.Submit(&reqs[i])
	}
	wait := func(want int) {
		for now := (blk.Instant{}); ; {
			c.Kick(now)
			if back >= want {
				return
			}
			var err error
			if now, err = drive(); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait(n)
	clear(mem[:n*8192])
	for i := range reqs {
		reqs[i].Op = blk.Read
		c.Submit(&reqs[i])
	}
	wait(2 * n)
	for i := range uint64(n * 16) {
		if v, err := Value(mem[i*512:(i+1)*512], i); err != nil || v != i/16+1000 {
			t.Fatalf("sector %d: write %d, %v", i, v, err)
		}
	}
	if back != 2*n || errs != 0 {
		t.Fatalf("%d completions of %d, %d errors", back, 2*n, errs)
	}
}

type completer func(*blk.Request)

func (f completer) Complete(r *blk.Request) { f(r) }
