package volume

import (
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// later completes what it was given at the end of the batch, as a disk does.
type later struct {
	ram
	q blk.Queue
}

func (d *later) Submit(r *blk.Request) { d.q.Push(r) }
func (d *later) reap() {
	for r := d.q.Pop(); r != nil; r = d.q.Pop() {
		r.Err = 0
		r.Owner.Complete(r)
	}
}

// swapped is a device that gives way to another one once the log is made and opened.
type swapped struct{ blk.Device }

func untraced(f *ublk.Fake) { f.Queues().Trace(nil, nil) }

// ownStamps has f counted by an own account.
func ownStamps(f *ublk.Fake) {
	if _, err := latency.FollowOwn("", 1, 32, func(do func(*ublk.Queues)) error { do(f.Queues()); return nil }, nil); err != nil {
		panic(err)
	}
}

// BenchmarkWrite is one 4-KiB write through the faked queue, a node without peer, and the cache:
// all the server's own work but that of the ring.
func BenchmarkWrite(b *testing.B) {
	for _, x := range []struct {
		name  string
		depth int
		count func(f *ublk.Fake)
	}{{"depth 1", 1, nil}, {"depth 32", 32, nil}, {"depth 1 untraced", 1, untraced}, {"depth 32 untraced", 32, untraced},
		{"depth 1 own stamps", 1, ownStamps}, {"depth 32 own stamps", 32, ownStamps}} {
		b.Run(x.name, func(b *testing.B) {
			depth := x.depth
			const size = 256 << 20
			w := blktest.NewWorld(1)
			made := blktest.NewDisk(w, "log", 256<<20, 1000)
			s := seglog.Super{Volume: seglog.UUID{1}, Term: seglog.Term{Number: 1, ID: 1}, DiskBytes: size, DiskBlock: 512}
			if err := seglog.Create(made, s, w.Drive); err != nil {
				b.Fatal(err)
			}
			fast := &later{ram: ram{256 << 20}}
			log := &swapped{made}
			data := &ram{size}
			c, err := dcd.Open(dcd.Options{Data: data, Log: log, Incarnation: 1}, w.Drive)
			if err != nil {
				b.Fatal(err)
			}
			log.Device = fast
			c.HoldDestage(false)
			n, err := mirror.New(mirror.Options{Cache: c, Primary: true, Drive: w.Drive, Random: func() uint64 { return 4 }})
			if err != nil {
				b.Fatal(err)
			}
			f, err := ublk.NewFake(n.Device(), depth, 64<<10)
			if err != nil {
				b.Fatal(err)
			}
			if x.count != nil {
				x.count(f)
			}
			now := blk.Instant{Mono: 1e9, Wall: 1e18}
			issued := 0
			b.ResetTimer()
			for f.Commits < b.N {
				for f.Free() > 0 {
					issued++
					f.Issue(blk.Write, 0, int64(issued*7919%16384)*4096, 4096, nil)
				}
				now.Mono += 10_000
				f.Now = now.Mono
				n.Kick(now)
				f.Queue.Kick(now)
				fast.reap()
				now.Mono += 10_000
				n.Kick(now)
				f.Queue.Kick(now)
			}
		})
	}
}
