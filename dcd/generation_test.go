package dcd

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

const (
	genDisk = 64 << 10
	genLog  = 512 << 10
)

var errCut = errors.New("the power is cut here")

// genSim is a cache that goes through a generation, until the power is cut after so many steps of the world.
type genSim struct {
	w         *blktest.World
	data, log *blktest.Disk
	c         *Cache
	left      int
	value     uint64
	buf       []byte
	old, next []byte // images: what is visible before, and what the primary has
	begun     bool
	shown     bool
	back      int
}

func (g *genSim) Complete(r *blk.Request) {
	if r.Err != 0 {
		panic(r.Err)
	}
	g.back++
}

func (g *genSim) drive() (blk.Instant, error) {
	if g.left--; g.left < 0 {
		return blk.Instant{}, errCut
	}
	return g.w.Drive()
}

func (g *genSim) until(ok func() bool) error {
	for g.c.Kick(g.w.Time()); !ok(); g.c.Kick(g.w.Time()) {
		g.c.Kick(g.w.Time()) // batches come, too, that bring nothing
		if _, err := g.drive(); err != nil {
			return err
		}
	}
	return nil
}

// change changes a range of an image.
func (g *genSim) change(image []byte, off, n int64) {
	g.value++
	blktest.Fill(image[off:off+n], off, g.value)
}

// write writes a range, and waits.
func (g *genSim) write(image []byte, off, n int64) error {
	g.change(image, off, n)
	copy(g.buf, image[off:off+n])
	was := g.back
	g.c.Submit(&blk.Request{Op: blk.Write, Offset: off, Length: n, Buf: g.buf[:n], Owner: g})
	return g.until(func() bool { return g.back > was })
}

func (g *genSim) somewhere() (off, n int64) {
	n = 512 << g.w.Rand.IntN(4)
	return g.w.Rand.Int64N(genDisk/512-n/512) * 512, n
}

func (g *genSim) open() (err error) {
	g.c, err = Open(Options{Data: g.data, Log: g.log, Incarnation: g.w.Rand.Uint64(), DestageBytes: 32 << 10, IdleNanos: 1}, g.w.Drive)
	return err
}

func newGenSim(seed uint64) (g *genSim, err error) {
	w := blktest.NewWorld(seed)
	g = &genSim{w: w, data: blktest.NewDisk(w, "data", genDisk, 50_000), log: blktest.NewDisk(w, "log", genLog, 20_000), left: 1 << 30, old: make([]byte, genDisk)}
	if g.buf, err = blk.Alloc(16 << 10); err != nil {
		return nil, err
	}
	s := seglog.Super{Volume: seglog.UUID{1}, Log: seglog.UUID{2}, Term: seglog.Term{Number: 1, ID: 1}, DiskBytes: genDisk, DiskBlock: 512, ChunkBytes: 32 << 10, MaxSegmentBytes: 8 << 10}
	if err := errors.Join(seglog.Create(g.log, s, w.Drive), g.open()); err != nil {
		return nil, err
	}
	for range 20 {
		off, n := g.somewhere()
		if err := g.write(g.old, off, n); err != nil {
			return nil, err
		}
	}
	g.next = bytes.Clone(g.old)
	for range 30 {
		off, n := g.somewhere()
		g.change(g.next, off, n)
	}
	g.c.DestageAll(true)
	return g, g.until(func() bool { return g.c.Dirty() == 0 && !g.c.Busy() })
}

// play stages all of what the primary has, in no order, while that changes.
func (g *genSim) play() error {
	at := g.c.Log().Sealed() + 5
	err := g.c.BeginStage(seglog.Point{LSN: at + 1, PrevHash: 7}, g.c.Log().StageSpace(), g.w.Rand.Uint64(), func(*seglog.Super) {}, g.drive)
	if err != nil {
		return err
	}
	g.begun = true
	for _, i := range g.w.Rand.Perm(genDisk / 4096) {
		if err := g.stage(int64(i) * 4096); err != nil {
			return err
		}
		for range g.w.Rand.IntN(3) {
			off, n := g.somewhere()
			if err := g.write(g.next, off, n); err != nil {
				return err
			}
		}
	}
	was := g.back
	g.c.Log().FlushStage(&blk.Request{Op: blk.Flush, Owner: g})
	if err := g.until(func() bool { return g.back > was }); err != nil {
		return err
	}
	g.shown = true
	t := g.c.ShowStage(func(s *seglog.Super) { s.StageBlocks = g.c.Log().StagedBlocks() })
	if err := g.until(func() bool { return g.c.Log().Updated() >= t }); err != nil {
		return err
	}
	for range 3 {
		off, n := g.somewhere()
		if err := g.write(g.next, off, n); err != nil {
			return err
		}
	}
	return g.until(func() bool { return g.c.Dirty() == 0 })
}

// stage stages a block as it is at the primary.
func (g *genSim) stage(off int64) error {
	u := g.c.Log().StageUnit()
	copy(g.buf[u:], g.next[off:off+4096])
	was := g.back
	if ok, _ := g.c.Stage(&blk.Request{Op: blk.Write, Offset: off, Length: 4096, Buf: g.buf, Owner: g}, false); !ok {
		return errors.New("no room")
	}
	return g.until(func() bool { return g.back > was })
}

func (g *genSim) readAll() ([]byte, error) {
	return blktest.ReadAll(g.c, func() (blk.Instant, error) {
		g.c.Kick(g.w.Time())
		return g.w.Drive()
	})
}

// cut cuts the power and looks at what is there then; again: once more on the way.
func (g *genSim) cut(again int) error {
	for ; ; again-- {
		g.data, g.log = g.data.Crash(), g.log.Crash()
		if err := g.open(); err != nil {
			return err
		}
		if again == 0 {
			break
		}
		for range g.w.Rand.IntN(60) {
			g.c.Kick(g.w.Time())
			g.w.Step()
		}
	}
	if err := g.rescue(); err != nil {
		return err
	}
	if g.c.Staging() && !bytes.Equal(g.data.Bytes(), g.old) {
		return errors.New("the data disk is not what was visible")
	}
	staging := g.c.Staging()
	if staging {
		if err := g.c.DropStage(func(s *seglog.Super) { s.Term.Number++ }, g.w.Drive); err != nil {
			return err
		}
	}
	b, err := g.readAll()
	switch {
	case err != nil:
		return err
	case bytes.Equal(b, g.old) && !g.shown:
		return nil
	case bytes.Equal(b, g.old) && staging:
		return nil
	case !g.shown:
		return errors.New("neither what was visible before, nor asked to be")
	}
	// The newest write may not have been acknowledged.
	for s := 0; s < genDisk; s += 512 {
		v, err := blktest.Value(b[s:s+512], uint64(s/512))
		if want, _ := blktest.Value(g.next[s:s+512], uint64(s/512)); err != nil || v != want && want != g.value {
			return fmt.Errorf("sector %d holds write %d, not %d: %v", s/512, v, want, err)
		}
	}
	g.c.DestageAll(true)
	for g.c.Kick(g.w.Time()); g.c.Dirty() > 0 || g.c.Busy(); g.c.Kick(g.w.Time()) {
		g.w.Step()
	}
	if g.c.Log().Super().StageBytes != 0 || !bytes.Equal(g.data.Bytes(), b) {
		return errors.New("the data disk does not get what the log holds")
	}
	return nil
}

// rescue checks what Rescue makes of copies of log and data disk: what was visible before, or the generation.
func (g *genSim) rescue() error {
	disk := blktest.NewDisk(g.w, "rescued", genDisk, 1000)
	disk.Restore(g.data.Bytes())
	log := blktest.NewDisk(g.w, "copy", genLog, 1000)
	log.Restore(g.log.Bytes())
	_, err := Rescue(log, disk, g.w.Drive)
	want := g.next
	if g.c.Staging() || !g.shown {
		want = g.old
	}
	if g.c.Staging() != (err != nil) {
		return fmt.Errorf("rescue: %v", err)
	}
	for s := 0; s < genDisk; s += 512 {
		v, _ := blktest.Value(disk.Bytes()[s:s+512], uint64(s/512))
		if w, _ := blktest.Value(want[s:s+512], uint64(s/512)); v != w && w != g.value {
			return fmt.Errorf("rescued sector %d holds write %d, not %d", s/512, v, w)
		}
	}
	return nil
}

// generations cuts the power after every few steps of a generation, once or in a row.
func generations(every int) error {
	for n, done := 1, false; !done; n += every {
		for again := range 3 {
			g, err := newGenSim(uint64(n))
			if err != nil {
				return err
			}
			g.left = n
			if err = g.play(); err != nil && !errors.Is(err, errCut) {
				return fmt.Errorf("step %d: %w", n, err)
			}
			done = err == nil
			if err := g.cut(again); err != nil {
				return fmt.Errorf("step %d, %d cuts (begun %v, shown %v): %w", n, again+1, g.begun, g.shown, err)
			}
		}
	}
	return nil
}

// At every power cut the copy is what was visible before, or all of the generation with what followed; reads wait
// for its blocks.
func TestGenerationPowerCuts(t *testing.T) {
	if err := generations(1); err != nil {
		t.Fatal(err)
	}
}

// Blocks that one read of the log does not bring all reach the data disk.
func TestLargeGeneration(t *testing.T) {
	const size, block = 8 << 20, 320 << 10
	w := blktest.NewWorld(1)
	g := &genSim{w: w, data: blktest.NewDisk(w, "data", size, 50_000), log: blktest.NewDisk(w, "log", 4*size, 20_000), left: 1 << 30}
	var err error
	if g.buf, err = blk.Alloc(block + 4096); err != nil {
		t.Fatal(err)
	}
	s := seglog.Super{Volume: seglog.UUID{1}, Log: seglog.UUID{2}, Term: seglog.Term{Number: 1, ID: 1}, DiskBytes: size, DiskBlock: 512, ChunkBytes: 1 << 20, MaxSegmentBytes: 64 << 10}
	if err := errors.Join(seglog.Create(g.log, s, w.Drive), g.open()); err != nil {
		t.Fatal(err)
	}
	l := g.c.Log()
	if err := g.c.BeginStage(seglog.Point{LSN: 5, PrevHash: 7}, l.StageSpace(), 1, func(*seglog.Super) {}, g.drive); err != nil {
		t.Fatal(err)
	}
	g.next = make([]byte, size)
	for off := int64(0); off < size; off += block {
		n := min(block, size-off)
		g.change(g.next, off, n)
		u, was := l.StageUnit(), g.back
		copy(g.buf[u:], g.next[off:off+n])
		if ok, _ := g.c.Stage(&blk.Request{Op: blk.Write, Offset: off, Length: n, Buf: g.buf, Owner: g}, false); !ok {
			t.Fatal("no room")
		}
		if err := g.until(func() bool { return g.back > was }); err != nil {
			t.Fatal(err)
		}
	}
	g.c.ShowStage(func(s *seglog.Super) { s.StageBlocks = l.StagedBlocks() })
	if err := g.until(func() bool { return !g.c.Applying() && !g.c.Busy() }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g.data.Bytes(), g.next) {
		t.Error("the data disk is not what was staged")
	}
}
