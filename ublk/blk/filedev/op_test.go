package filedev

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

func opDisk() *Disk { return &Disk{transfer: maxTransferBytes, zero: maxZeroBytes} }

const (
	again       = -int32(unix.EAGAIN)
	interrupted = -int32(unix.EINTR)
	unsupported = -int32(unix.EOPNOTSUPP)
	noSpace     = -int32(unix.ENOSPC)
)

// Short results go on where they stopped; only the last one completes the request.
func TestShortResultsAreFinished(t *testing.T) {
	for _, what := range []blk.Op{blk.Read, blk.Write} {
		d, o := opDisk(), op{r: &blk.Request{Op: what, Flags: blk.FUA, Offset: 4096, Length: 8192, Buf: make([]byte, 8192)}}
		off, left := uint64(4096), uint32(8192)
		for i, s := range []struct {
			res  int32
			more bool
		}{{interrupted, true}, {512, true}, {again, true}, {4096, true}, {3584, false}} {
			e := uring.SQE{}
			if d.prep(&e, &o); e.Off != off || e.Len != left {
				t.Fatalf("%v step %d asks for [%d, +%d), should be [%d, +%d)", what, i, e.Off, e.Len, off, left)
			}
			if what == blk.Write && e.OpFlags != uring.RWFDSync {
				t.Fatalf("step %d is not FUA", i)
			}
			if got := d.step(&o, s.res, 0); got != s.more {
				t.Fatalf("%v step %d (%d): more %v", what, i, s.res, got)
			}
			if s.res > 0 {
				off, left = off+uint64(s.res), left-uint32(s.res)
			}
		}
		if o.r.Err != 0 || left != 0 {
			t.Fatal(o.r.Err, left)
		}
	}
}

func TestErrorsEndARequest(t *testing.T) {
	rows := []struct {
		res  int32
		want syscall.Errno
	}{{0, syscall.EIO}, {700, syscall.EIO}, {16384, syscall.EIO}, {noSpace, syscall.ENOSPC}, {unsupported, syscall.EOPNOTSUPP}}
	for _, row := range rows {
		for _, what := range []blk.Op{blk.Read, blk.Write} {
			d, o := opDisk(), op{r: &blk.Request{Op: what, Length: 8192, Buf: make([]byte, 8192)}}
			d.prep(&uring.SQE{}, &o)
			if d.step(&o, row.res, 0) || o.r.Err != row.want {
				t.Errorf("%v of 8192 bytes, result %d: %v", what, row.res, o.r.Err)
			}
		}
	}
}

// Trying again slows down, and ends.
func TestTriesAreBounded(t *testing.T) {
	d, o := opDisk(), op{r: &blk.Request{Op: blk.Write, Length: 8192, Buf: make([]byte, 8192)}}
	d.prep(&uring.SQE{}, &o)
	for i := range maxTries {
		if !d.step(&o, again, 5) {
			t.Fatal("gave up after", i)
		}
		if slow := i >= quickTries; slow != (o.notBefore == 5+retryNanos) {
			t.Fatalf("try %d: not before %d", i, o.notBefore)
		}
	}
	if d.step(&o, again, 5) || o.r.Err != syscall.EAGAIN {
		t.Fatal("no end", o.r.Err)
	}
	// Progress begins the count anew.
	o = op{r: &blk.Request{Op: blk.Write, Length: 8192, Buf: make([]byte, 8192)}}
	for range 3 * maxTries {
		d.prep(&uring.SQE{}, &o)
		if o.tries == maxTries {
			d.step(&o, 512, 5)
		}
		if o.done == 1024 {
			return
		}
		if !d.step(&o, again, 5) {
			t.Fatal("gave up although it went on")
		}
	}
}

// Zeroing goes in steps, tries the other way once where the first is not supported, and is made
// durable at the end where FUA asks for it.
func TestZeroing(t *testing.T) {
	const punch, zero = fallocKeepSize | fallocPunchHole, fallocKeepSize | fallocZeroRange
	rows := []struct {
		name  string
		op    blk.Op
		flags blk.Flags
		res   []int32
		ops   []uint32 // modes; 0: a flush
		err   syscall.Errno
	}{
		{"discard", blk.Discard, 0, []int32{0, 0}, []uint32{punch, punch}, 0},
		{"zeroes", blk.WriteZeroes, 0, []int32{0, 0}, []uint32{punch, punch}, 0},
		{"zeroes, kept", blk.WriteZeroes, blk.NoUnmap, []int32{0, 0}, []uint32{zero, zero}, 0},
		{"zeroes, FUA", blk.WriteZeroes, blk.FUA, []int32{0, 0, 0}, []uint32{punch, punch, 0}, 0},
		{"FUA fails", blk.WriteZeroes, blk.FUA, []int32{0, 0, -5}, []uint32{punch, punch, 0}, syscall.EIO},
		{"FUA is not supported", blk.WriteZeroes, blk.FUA, []int32{0, 0, unsupported}, []uint32{punch, punch, 0}, syscall.EOPNOTSUPP},
		{"no holes", blk.Discard, 0, []int32{unsupported, 0, 0}, []uint32{punch, zero, zero}, 0},
		{"no zeroing", blk.WriteZeroes, blk.NoUnmap, []int32{unsupported, 0, 0}, []uint32{zero, punch, punch}, 0},
		{"neither", blk.Discard, 0, []int32{unsupported, unsupported}, []uint32{punch, zero}, syscall.EOPNOTSUPP},
		{"an error", blk.Discard, 0, []int32{0, -5}, []uint32{punch, punch}, syscall.EIO},
	}
	for _, row := range rows {
		d, o := opDisk(), op{r: &blk.Request{Op: row.op, Flags: row.flags, Length: maxZeroBytes + 4096}}
		done := uint64(0)
		for i, res := range row.res {
			var e uring.SQE
			d.prep(&e, &o)
			switch {
			case row.ops[i] == 0:
				if e.Opcode != uring.OpFsync {
					t.Errorf("%s step %d: opcode %d", row.name, i, e.Opcode)
				}
			case e.Opcode != uring.OpFallocate || e.Len != row.ops[i] || e.Off != done || e.Addr != min(maxZeroBytes, maxZeroBytes+4096-done):
				t.Errorf("%s step %d: mode %#x of [%d, +%d)", row.name, i, e.Len, e.Off, e.Addr)
			}
			if more := d.step(&o, res, 0); more != (i < len(row.res)-1) {
				t.Errorf("%s step %d: more %v", row.name, i, more)
			}
			if res == 0 {
				done = uint64(o.done)
			}
		}
		if o.r.Err != row.err {
			t.Errorf("%s: %v", row.name, o.r.Err)
		}
	}
}

// Whatever the kernel answers, a request ends, and without an error only when every byte was done once.
func TestAnyResults(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n := (1 + rnd.Int64N(64)) * 512
		d, o := opDisk(), op{r: &blk.Request{Op: blk.Op(rnd.IntN(5)), Length: n}}
		d.transfer, d.zero = 4096, 8192
		data := o.r.Op == blk.Read || o.r.Op == blk.Write
		if data {
			o.r.Buf = make([]byte, n)
		} else if o.r.Op == blk.Flush {
			o.r.Length = 0
		}
		var done int64
		for steps := 0; ; steps++ {
			var e uring.SQE
			d.prep(&e, &o)
			if data && (int64(e.Off) != done || int64(e.Len) > n-done || e.Len == 0) {
				t.Fatalf("seed %d: step [%d, +%d) after %d of %d bytes", seed, e.Off, e.Len, done, n)
			}
			res := []int32{again, interrupted, unsupported, noSpace, 0, int32(e.Len), int32(e.Len), int32(rnd.IntN(9)) * 512, int32(rnd.IntN(5000))}[rnd.IntN(9)]
			if steps > 100 {
				res = noSpace
			}
			more := d.step(&o, res, 0)
			if data && res > 0 && (more || o.r.Err == 0) {
				done += int64(res)
			}
			if !more {
				break
			}
		}
		if data && o.r.Err == 0 && done != n {
			t.Fatalf("seed %d: %d of %d bytes, and no error", seed, done, n)
		}
	}
}
