package dcd

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"os"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// The exhaustive small model: the real cache over three blocks and a log that holds four segments,
// of which the start takes some. Every history of a few steps is gone through: a client's writes
// and discards, submitted without waiting for the ones before; the completion of the oldest or the
// newest operation of either disk; idleness, up to the next thing that the cache wants to do.
// After every step the power is cut, and of each write that is not durable, each torn part that
// could make a difference is kept or not. What is recovered must be what some prefix of the
// client's operations left, with all acknowledged ones in it; it must take another write, survive
// another cut, and destage to the data disk.

const (
	modelBlocks = 3
	modelSize   = modelBlocks * BlockBytes
	modelChunk  = 4 * 4608
	modelLog    = 28<<10 + 5*BlockBytes
)

// step is one letter of a history.
type step byte

const steps = "012PZD" + "LlBbI"

// wide gives the range of a client's operation.
func (a step) wide() (op blk.Op, off, n int64) {
	switch a {
	case 'P': // sectors of two blocks
		return blk.Write, BlockBytes - 1024, 2048
	case 'Z':
		return blk.WriteZeroes, BlockBytes + 1024, BlockBytes
	case 'D':
		return blk.Discard, 0, 2 * BlockBytes
	}
	return blk.Write, int64(a-'0') * BlockBytes, BlockBytes
}

// model is one history that is being lived.
type model struct {
	data, log *modelDisk
	c         *Cache
	now, wake int64
	images    [][]byte // what the volume holds after each client operation; the first is the start
	acked     int
	idles     int
}

// began is where histories begin.
type began struct {
	data, log []byte
	image     []byte
}

func modelOpen(log, data *modelDisk, incarnation uint64) (*Cache, error) {
	return Open(Options{Data: data, Log: log, Incarnation: incarnation, DestageBytes: BlockBytes, IdleNanos: 300_000}, func() (blk.Instant, error) {
		if len(log.flight)+len(data.flight) == 0 {
			return blk.Instant{}, blktest.ErrQuiet
		}
		log.all()
		data.all()
		return blk.Instant{}, nil
	})
}

func (b *began) live() *model {
	m := &model{data: newModelDisk(b.data, modelSize), log: newModelDisk(b.log, modelLog), now: 1e9, wake: blk.Never}
	m.images = append(m.images, b.image)
	var err error
	if m.c, err = modelOpen(m.log, m.data, 1000); err != nil {
		fail("open: %v", err)
	}
	return m
}

// Complete counts what is acknowledged; it comes in order.
func (m *model) Complete(r *blk.Request) {
	if r.Err != 0 {
		fail("%v failed: %v", r.Op, r.Err)
	}
	if int(r.Tag) != m.acked {
		fail("operation %d acknowledged after %d", r.Tag, m.acked)
	}
	m.acked++
}

// can says whether a step is possible.
func (m *model) can(a step, ops, idles int) bool {
	switch a {
	case 'L':
		return len(m.log.flight) > 0
	case 'l':
		return len(m.log.flight) > 1
	case 'B':
		return len(m.data.flight) > 0
	case 'b':
		return len(m.data.flight) > 1
	case 'I':
		return m.idles < idles && m.wake-m.now < 1e9 // not as long as a disk's deadline
	}
	return len(m.images)-1 < ops
}

func (m *model) do(a step) {
	m.now += 1000
	switch a {
	case 'L':
		m.log.complete(0)
	case 'l':
		m.log.complete(len(m.log.flight) - 1)
	case 'B':
		m.data.complete(0)
	case 'b':
		m.data.complete(len(m.data.flight) - 1)
	case 'I':
		m.idles++
		m.now = max(m.now, m.wake)
	default:
		m.client(a)
	}
	m.kick()
}

func (m *model) client(a step) {
	op, off, n := a.wide()
	img := append([]byte(nil), m.images[len(m.images)-1]...)
	r := &blk.Request{Op: op, Offset: off, Length: n, Owner: m, Tag: uint32(len(m.images) - 1)}
	if op == blk.Write {
		blktest.Fill(img[off:off+n], off, uint64(1000+len(m.images)))
		r.Buf = append([]byte(nil), img[off:off+n]...)
	} else {
		clear(img[off : off+n])
	}
	m.images = append(m.images, img)
	m.c.Submit(r)
}

func (m *model) kick() {
	for range 100 {
		if m.wake = m.c.Kick(blk.Instant{Mono: m.now, Wall: 1}); m.wake > m.now {
			return
		}
	}
	fail("it wants to be kicked for ever")
}

// settle completes everything, with no cut, until all is acknowledged and destaged.
func (m *model) settle() {
	m.c.DestageAll(true)
	for range 400 {
		m.now += 1000
		m.log.all()
		m.data.all()
		m.kick()
		if m.acked == len(m.images)-1 && m.c.Dirty() == 0 && len(m.log.flight)+len(m.data.flight) == 0 {
			return
		}
	}
	fail("it never settles: %d of %d acknowledged, %d bytes dirty", m.acked, len(m.images)-1, m.c.Dirty())
}

// read gives what the volume holds; a client would be told the same.
func (m *model) read() []byte {
	b, err := blktest.ReadAll(m.c, func() (blk.Instant, error) { return blk.Instant{}, blktest.ErrQuiet })
	if err != nil {
		fail("read: %v", err)
	}
	return b
}

// prefix says how many of the client's operations b holds.
func (m *model) prefix(b []byte) int {
	for k := m.acked; k < len(m.images); k++ {
		if bytes.Equal(b, m.images[k]) {
			return k
		}
	}
	what := ""
	for s := range int64(modelSize / 512) {
		v, err := blktest.Value(b[s*512:(s+1)*512], uint64(s))
		what += fmt.Sprintf(" %d", v)
		if err != nil {
			what += "!"
		}
	}
	fail("no prefix of the %d operations, of which %d are acknowledged:%s", len(m.images)-1, m.acked, what)
	return 0
}

// explorer goes through all histories.
type explorer struct {
	from                *began
	ops, idles, deepest int
	seed                maphash.Seed
	seen                map[uint64]bool
	histories, cuts     int
}

// cut cuts the power in every way there is, and checks what is recovered from each image of the
// two disks that has not been seen yet.
func (x *explorer) cut(m *model) {
	m.log.crashes(func(log []byte) {
		m.data.crashes(func(data []byte) {
			x.cuts++
			var h maphash.Hash
			h.SetSeed(x.seed)
			h.Write(log)
			h.Write(data)
			for k := m.acked; k < len(m.images); k++ {
				h.Write(m.images[k])
			}
			if key := h.Sum64(); !x.seen[key] {
				x.seen[key] = true
				x.recover(m, log, data)
			}
		})
	})
}

// recover opens what a cut has left, goes on with it, cuts again, and drains.
func (x *explorer) recover(m *model, log, data []byte) {
	a := &model{data: newModelDisk(data, modelSize), log: newModelDisk(log, modelLog), now: 1e9}
	var err error
	if a.c, err = modelOpen(a.log, a.data, 2000); err != nil {
		fail("recovery: %v", err)
	}
	a.images = [][]byte{m.images[m.prefix(a.read())]}
	if x.ops > 0 && len(x.seen)%again != 0 {
		x.close(a)
		return
	}
	a.kick()
	a.client('1')
	for a.kick(); a.acked == 0; a.kick() {
		if len(a.log.flight)+len(a.data.flight) == 0 {
			fail("after recovery: quiet")
		}
		a.log.all()
		a.data.all()
	}
	b := &model{data: newModelDisk(a.data.media, modelSize), log: newModelDisk(a.log.media, modelLog), now: 2e9, images: a.images, acked: 1}
	if b.c, err = modelOpen(b.log, b.data, 3000); err != nil {
		fail("the recovery after it: %v", err)
	}
	b.prefix(b.read())
	b.settle()
	if b.prefix(b.data.media); b.acked != 1 {
		fail("%d acknowledged", b.acked)
	}
	x.close(b)
}

// again is how many recoveries are gone on with and cut again: one in so many.
var again = 3

func (x *explorer) close(m *model) {
	if err := m.c.Close(); err != nil {
		fail("close: %v", err)
	}
}

// explore lives every history that begins with path, and gives the one that failed.
func (x *explorer) explore(path []step) {
	m := x.from.live()
	for _, a := range path {
		m.do(a)
	}
	for {
		x.cut(m)
		var next []step
		for _, a := range []step(steps) {
			if len(path) < x.deepest && m.can(a, x.ops, x.idles) {
				next = append(next, a)
			}
		}
		if len(next) == 0 {
			x.histories++
			m.prefix(m.read())
			m.settle()
			m.prefix(m.data.media)
			x.close(m)
			return
		}
		for _, a := range next[:len(next)-1] {
			x.explore(append(path[:len(path):len(path)], a))
		}
		path = append(path[:len(path):len(path)], next[len(next)-1])
		at = path
		m.do(path[len(path)-1])
	}
}

// at is the history being lived, for messages.
var at []step

// starts are where histories begin: an empty log; one that has gone round, so that whole segments of
// earlier laps lie everywhere, and is all destaged; the same with two segments that are not.
func starts() map[string]*began {
	out := map[string]*began{}
	data, log := newModelDisk(nil, modelSize), newModelDisk(nil, modelLog)
	drive := func() (blk.Instant, error) { log.all(); data.all(); return blk.Instant{}, nil }
	super := seglog.Super{Volume: seglog.UUID{1}, Log: seglog.UUID{2}, DiskBytes: modelSize, DiskBlock: 512, ChunkBytes: modelChunk, MaxSegmentBytes: 4608, DiskIdentity: "model"}
	var err error
	if super.Fingerprint, err = Fingerprint(data, modelSize, drive); err == nil {
		err = seglog.Create(log, super, drive)
	}
	if err != nil {
		fail("create: %v", err)
	}
	image := make([]byte, modelSize)
	keep := func(name string, m *model) {
		log.all()
		data.all()
		if m != nil {
			image = m.images[len(m.images)-1]
		}
		out[name] = &began{bytes.Clone(data.media), bytes.Clone(log.media), image}
	}
	keep("empty", nil)
	m := out["empty"].live()
	data, log = m.data, m.log
	for i := range 9 {
		m.client(step('0' + i%3))
		m.kick()
		m.settle()
	}
	keep("wrapped", m)
	m.c.HoldDestage(true)
	for i := range 2 {
		m.client(step('0' + i))
		for m.kick(); m.acked < len(m.images)-1; m.kick() {
			log.all()
		}
	}
	keep("held", m)
	return out
}

// modelRun explores from one start; the error names the history.
func modelRun(from *began, ops, idles, deepest int) (x *explorer, err error) {
	x = &explorer{from: from, ops: ops, idles: idles, deepest: deepest, seed: maphash.MakeSeed(), seen: map[uint64]bool{}}
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("history %q: %s", at, f.msg)
		}
	}()
	x.explore(nil)
	return x, nil
}

func TestEveryHistoryOfASmallModel(t *testing.T) {
	deepest := 2
	if os.Getenv("ROBIB_SEEDS") != "" {
		deepest, again = 7, 1
	}
	for name, from := range starts() {
		x, err := modelRun(from, 3, 2, deepest)
		if err != nil {
			t.Fatalf("from %s: %v", name, err)
		}
		t.Logf("from %s: %d histories, %d power cuts, %d different states recovered from", name, x.histories, x.cuts, len(x.seen))
	}
}
