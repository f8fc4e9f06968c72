package filedev

import (
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// Who waits is not overtaken by who comes when an operation has just ended.
func TestWaitingInOrder(t *testing.T) {
	f := openExclusive(t, tempPath(t, 1<<20))
	b := memory(t, 3*4096)
	onDisk(t, f, Options{Depth: 1}, func(d *Disk, drive blk.Drive) {
		var order recorder
		reqs := make([]blk.Request, 3)
		for i := range reqs {
			reqs[i] = blk.Request{Op: blk.Read, Length: 4096, Buf: b[i*4096:][:4096], Tag: uint32(i), Owner: &order}
		}
		d.Submit(&reqs[0])
		d.Submit(&reqs[1])
		for len(order) == 0 {
			if _, err := drive(); err != nil {
				t.Error(err)
				return
			}
		}
		for d.Submit(&reqs[2]); len(order) < 3; {
			d.Kick(blk.Instant{})
			if _, err := drive(); err != nil {
				t.Error(err)
				return
			}
		}
		if order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Error(order)
		}
	})
}

type recorder []uint32

func (r *recorder) Complete(q *blk.Request) { *r = append(*r, q.Tag) }

// An operation that must wait is not issued before its time, and Kick says when that is.
func TestTryAgainLater(t *testing.T) {
	f := openExclusive(t, tempPath(t, 1<<20))
	b := memory(t, 4096)
	onDisk(t, f, Options{Depth: 2}, func(d *Disk, drive blk.Drive) {
		var done count
		r := &blk.Request{Op: blk.Read, Length: 4096, Buf: b, Owner: &done}
		i := d.free[len(d.free)-1]
		d.free = d.free[:len(d.free)-1]
		d.ops[i] = op{r: r, tries: quickTries}
		// As if the kernel had answered the first try.
		d.Handle(uring.CQE{UserData: d.id | uint64(i), Res: again}, 1000)
		for _, now := range []int64{0, 1000, 1000 + retryNanos - 1} {
			if wake := d.Kick(blk.Instant{Mono: now}); wake != 1000+retryNanos || len(d.again) != 1 {
				t.Errorf("at %d: wake %d, %d wait", now, wake, len(d.again))
			}
		}
		if wake := d.Kick(blk.Instant{Mono: 1000 + retryNanos}); wake != blk.Never || len(d.again) != 0 {
			t.Errorf("wake %d, %d wait", wake, len(d.again))
		}
		for done == 0 {
			if _, err := drive(); err != nil {
				t.Error(err)
				return
			}
		}
	})
}
