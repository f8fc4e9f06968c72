package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

var errEnough = errors.New("the power is cut here")

// generation drives a log through a generation, until the power is cut after so many steps of the world.
type generation struct {
	w     *blktest.World
	dev   *blktest.Disk
	l     *Log
	left  int
	mem   []byte
	back  int
	put   [][]byte // payloads that were staged; nil: zeros
	kept  int      // of them, known to be durable
	old   Point    // what is visible before
	shown bool     // ShowStage was asked for
	sure  bool     // and durable
}

func (g *generation) Complete(*blk.Request) { g.back++ }

func (g *generation) drive() (blk.Instant, error) {
	if g.left--; g.left < 0 {
		return blk.Instant{}, errEnough
	}
	return g.w.Drive()
}

// until kicks until ok.
func (g *generation) until(ok func() bool) error {
	for g.l.Kick(g.w.Time()); !ok(); g.l.Kick(g.w.Time()) {
		if _, err := g.drive(); err != nil {
			return err
		}
	}
	return nil
}

func (g *generation) seal() error {
	if !g.l.Begin(1, 512) {
		return errors.New("full")
	}
	g.l.Add(Data, 0, 512, g.mem[:512])
	lsn := g.l.Seal(g.w.Time())
	return g.until(func() bool { return g.l.Durable() >= lsn })
}

// stage stages a block of n bytes, zeros where n is odd.
func (g *generation) stage(n int64) error {
	i, zero := len(g.put), n%2 == 1
	n &^= 1
	u := g.l.StageUnit()
	blktest.Fill(g.mem[u:u+n], int64(i)*8192, uint64(100+i))
	g.put = append(g.put, nil)
	if !zero {
		g.put[i] = bytes.Clone(g.mem[u : u+n])
	}
	if ok, free := g.l.Stage(&blk.Request{Op: blk.Write, Offset: int64(i) * 8192, Length: n, Buf: g.mem, Owner: g}, zero); !ok {
		return fmt.Errorf("no room (%v)", free)
	}
	was := g.back
	return g.until(func() bool { return g.back > was })
}

func (g *generation) flush() error {
	g.l.FlushStage(&blk.Request{Op: blk.Flush, Owner: g})
	was, n := g.back, len(g.put)
	if err := g.until(func() bool { return g.back > was }); err != nil {
		return err
	}
	t := g.l.Update(func(s *Super) { s.StageBlocks = uint64(n) })
	err := g.until(func() bool { return g.l.Updated() >= t })
	if err == nil {
		g.kept = n
	}
	return err
}

// begin makes a log with some segments, all destaged, and begins a generation behind LSN 20.
func (g *generation) begin() error {
	return g.l.BeginStage(Point{LSN: 21, PrevHash: 77}, g.l.StageSpace(), 5, func(s *Super) { s.Term.Number, s.Marks = 3, 0 }, g.drive)
}

func (g *generation) play() error {
	if err := g.begin(); err != nil {
		return err
	}
	for _, n := range []int64{4096, 512, 8193, 1024} {
		if err := errors.Join(g.stage(n), g.seal()); err != nil {
			return err
		}
	}
	if err := g.flush(); err != nil {
		return err
	}
	if err := errors.Join(g.stage(8192), g.seal(), g.flush()); err != nil {
		return err
	}
	g.shown = true
	t := g.l.ShowStage(func(*Super) {})
	if err := g.until(func() bool { return g.l.Updated() >= t }); err != nil {
		return err
	}
	g.sure = true
	t = g.l.EndStage()
	return g.until(func() bool { return g.l.Updated() >= t })
}

func newGeneration(t *testing.T, left int) *generation {
	t.Helper()
	w := blktest.NewWorld(uint64(left))
	g := &generation{w: w, dev: blktest.NewDisk(w, "log", simSize, 1000), left: 1 << 30}
	var err error
	if g.mem, err = blk.Alloc(16 << 10); err != nil {
		t.Fatal(err)
	}
	if err := Create(g.dev, newSuper(), w.Drive); err != nil {
		t.Fatal(err)
	}
	if g.l, err = Open(g.dev, Options{Incarnation: 1}, w.Drive); err != nil {
		t.Fatal(err)
	}
	d := g.l.NewReader("destage", 0)
	for range 7 {
		if err := g.seal(); err != nil {
			t.Fatal(err)
		}
		d.Next(g.l.Durable())
	}
	d.Release(7)
	h, _ := g.l.Hash(7)
	g.old, g.left = Point{LSN: 8, PrevHash: h}, left
	return g
}

// reopen cuts the power and opens the log again; staged is what its stage then holds.
func (g *generation) reopen() (staged [][]byte, err error) {
	g.dev, g.left, g.back = g.dev.Crash(), 1<<30, 0
	g.l, err = Open(g.dev, Options{Incarnation: 2, Staged: func(b Staged) { staged = append(staged, bytes.Clone(b.Payload)) }}, g.w.Drive)
	return staged, err
}

// goesOn seals, cuts the power, and finds it all again.
func (g *generation) goesOn(first LSN) error {
	g.l.NewReader("destage", g.l.First()-1)
	for lsn := first; lsn < first+3; lsn++ {
		if err := g.seal(); err != nil || g.l.Sealed() != lsn {
			return fmt.Errorf("LSN %d where %d is due: %w", g.l.Sealed(), lsn, err)
		}
	}
	_, err := g.reopen()
	if err == nil && g.l.Sealed() != first+2 {
		err = fmt.Errorf("LSN %d is the last one, %d was", g.l.Sealed(), first+2)
	}
	return err
}

// The power is cut after every step of a generation. What then is there is what was visible before, and the
// stage as far as it was durable, or the generation with all of its blocks; either goes on, or is dropped.
func TestStagePowerCuts(t *testing.T) {
	for n, done := 1, false; !done; n++ {
		for _, after := range []string{"goes on", "dropped", "dropped for a new term"} {
			g := newGeneration(t, n)
			err := g.play()
			if done = err == nil; err != nil && !errors.Is(err, errEnough) {
				t.Fatalf("step %d: %v", n, err)
			}
			put, shown := g.put, g.shown
			staged, err := g.reopen()
			if err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
			s, sealed := g.l.Super(), g.l.Sealed()
			switch {
			case g.sure && g.l.Staging(), !shown && g.l.Applying():
				t.Fatalf("step %d: shown %v, durably %v: %v", n, shown, g.sure, s.Marks)
			case s.StageBytes == 0 && s.Start.LSN < 21:
				if h, _ := g.l.Hash(7); sealed != 7 || h != g.old.PrevHash || len(put) > 0 {
					t.Fatalf("step %d: the log ends at LSN %d, and %d blocks were staged", n, sealed, len(put))
				}
				continue
			case s.StageBytes == 0 && g.sure:
				continue
			case g.l.Staging() && s.Visible != g.old || len(staged) < g.kept || len(staged) > len(put) || g.l.Applying() && len(staged) != len(put):
				t.Fatalf("step %d: visible %+v, %d of %d blocks, %d were durable", n, s.Visible, len(staged), len(put), g.kept)
			}
			for i, b := range staged {
				if !bytes.Equal(b, put[i]) {
					t.Fatalf("step %d: block %d differs", n, i)
				}
			}
			first := sealed + 1
			if after != "goes on" && g.l.Staging() {
				first = 8
				err := g.l.DropStage(func(s *Super) {
					if after != "dropped" {
						s.Term.Number++
					}
				}, g.drive)
				if err != nil || g.l.Sealed() != 7 || g.l.Super().StageBytes != 0 || g.l.Staging() {
					t.Fatalf("step %d: %v, LSN %d, %+v", n, err, g.l.Sealed(), g.l.Super())
				}
				if _, err := g.reopen(); err != nil || g.l.Sealed() != 7 {
					t.Fatalf("step %d, %s: the log does not end at LSN 7: %v", n, after, err)
				}
			}
			if err := g.goesOn(first); err != nil {
				t.Fatalf("step %d, %s: %v", n, after, err)
			}
		}
		if n > 2000 {
			t.Fatal("it never ends")
		}
	}
}

// Nothing of a stage is overwritten while it is there, and all of its space comes back behind it.
func TestStageIsHeld(t *testing.T) {
	if err := stageIsHeld(t); err != nil {
		t.Fatal(err)
	}
}

func stageIsHeld(t *testing.T) error {
	g := newGeneration(t, 1<<30)
	if err := errors.Join(g.begin(), g.stage(8192), g.stage(4096), g.flush()); err != nil {
		return err
	}
	d := g.l.NewReader("destage", 20)
	var err error
	for err == nil && g.l.Sealed() < 200 {
		if err = g.seal(); err == nil {
			d.Next(g.l.Durable())
		}
	}
	used, of := g.l.Used()
	if used < of-16<<10 || g.l.Sealed() < 30 || err == nil {
		return fmt.Errorf("%d of %d bytes used at LSN %d", used, of, g.l.Sealed())
	}
	d.Release(g.l.Sealed())
	g.l.Trim()
	if err := g.until(func() bool { return !g.l.Busy() }); err != nil {
		return err
	}
	if f := g.l.Free(); f != g.l.Super().StagePos {
		return fmt.Errorf("position %d is free, the stage begins at %d", f, g.l.Super().StagePos)
	}
	if staged, err := g.reopen(); err != nil || len(staged) != 2 {
		return fmt.Errorf("%d blocks, %v", len(staged), err)
	}
	g.l.NewReader("destage", g.l.First()-1)
	ticket := g.l.ShowStage(func(*Super) {})
	ticket = max(ticket, g.l.EndStage())
	if err := g.until(func() bool { return g.l.Updated() >= ticket && !g.l.Busy() }); err != nil {
		return err
	}
	if f := g.l.Free(); f != g.l.Super().Start.Pos || g.l.Super().Incompat&Stages != 0 {
		return fmt.Errorf("position %d is free, the log begins at %d (%#x)", f, g.l.Super().Start.Pos, g.l.Super().Incompat)
	}
	return nil
}

// A generation with a durable block that is damaged is worth nothing; one that is visible is not opened.
func TestStageRots(t *testing.T) {
	for _, shown := range []bool{false, true} {
		g := newGeneration(t, 1<<30)
		if err := errors.Join(g.begin(), g.stage(4096), g.stage(4096), g.flush()); err != nil {
			t.Fatal(err)
		}
		if shown {
			ticket := g.l.ShowStage(func(*Super) {})
			if err := g.until(func() bool { return g.l.Updated() >= ticket }); err != nil {
				t.Fatal(err)
			}
		}
		b := g.dev.Bytes()
		b[g.l.DeviceOffset(g.l.Super().StagePos)+4096+512+600] ^= 1
		g.dev.Restore(bytes.Clone(b))
		_, err := g.reopen()
		if shown != errors.Is(err, ErrCorrupt) || !shown && !g.l.StageDamaged() {
			t.Fatalf("shown %v: %v", shown, err)
		}
	}
}

// A superblock and a block with all that a stage needs: version 1 is frozen.
func TestGoldenStage(t *testing.T) {
	s := sample()
	s.Marks |= Staging
	s.Incompat, s.Visible, s.StageBytes, s.StageID, s.StageBlocks, s.MinTerm = Stages, Point{LSN: 5, PrevHash: 0x77}, 2048, 0x55, 2, 3
	s.StagePos = s.Start.Pos - 2048
	b := make([]byte, slotBytes)
	encodeSuper(b, s)
	golden(t, "super-stage-v1.bin", b)
	if got, err := decodeSuper(b); err != nil || *got != *s {
		t.Fatalf("%v\n%+v\n%+v", err, got, s)
	}
	l := &Log{super: *s}
	e := make([]byte, 1536)
	blktest.Fill(e[512:], 4096, 9)
	putStaged(e, 512, s.StageID, 7, 4096, 1024, false)
	golden(t, "staged-v1.bin", e)
	x, n, _, ok := l.ParseStaged(e, 7)
	if !ok || n != 1536 || x.Offset != 4096 || !bytes.Equal(x.Payload, e[512:]) {
		t.Fatalf("%v %d %+v", ok, n, x)
	}
	for i := range 64 + 1024 {
		at := i
		if i >= 64 {
			at += 512 - 64
		}
		e[at] ^= 4
		if _, _, _, ok := l.ParseStaged(e, 7); ok {
			t.Fatalf("byte %d was not missed", at)
		}
		e[at] ^= 4
	}
}
