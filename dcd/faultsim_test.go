package dcd

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// strike makes one disk do something that a disk must not do, at a moment of the seed's, and says what.
func (s *sim) strike(kind int) (what string) {
	r := s.w.Rand
	nth := 1 + r.IntN(400)
	at := r.Int64N(simLog/blk.SectorBytes) * blk.SectorBytes
	switch kind {
	case 0:
		s.log.LoseNth(nth)
		return fmt.Sprintf("the log drops write %d", nth)
	case 1:
		to := min(at, simLog-32<<10)
		s.log.MisdirectNth(nth, to)
		return fmt.Sprintf("the log puts write %d at %d", nth, to)
	case 2:
		n := min(blk.SectorBytes<<r.IntN(6), simLog-at)
		s.w.After(r.Int64N(300e6), func() { s.log.RotRange(at, n) })
		return fmt.Sprintf("the log rots at [%d, +%d)", at, n)
	case 3:
		s.log.FailNthOfAny(nth, syscall.EIO, r.IntN(2) == 0)
		return fmt.Sprintf("the log fails operation %d", nth)
	case 4:
		s.data.FailNthOfAny(nth, syscall.EIO, r.IntN(2) == 0)
		return fmt.Sprintf("the data disk fails operation %d", nth)
	case 5:
		s.log.HangNth([]blk.Op{blk.Read, blk.Write, blk.Flush}[r.IntN(3)], 1+nth/8)
		return "the log hangs"
	default:
		s.data.HangNth([]blk.Op{blk.Read, blk.Write, blk.Flush}[r.IntN(3)], 1+nth/8)
		return "the data disk hangs"
	}
}

const strikes = 7

// legal reads everything, block by block: what can be read must be what a client may find there.
func (s *sim) legal() (unread int) {
	b := make([]byte, max(BlockBytes, 33<<10))[:BlockBytes]
	for off := int64(0); off < simDisk; off += BlockBytes {
		before := s.oracle.Snapshot(off, BlockBytes)
		if err := blk.Do(s.c, &blk.Request{Op: blk.Read, Offset: off, Length: BlockBytes, Buf: b}, s.drive); err != nil {
			if errors.Is(err, blktest.ErrQuiet) {
				fail("a read of %d never ends", off)
			}
			unread++
			continue
		}
		if err := s.oracle.CheckRead(b, off, before); err != nil {
			fail("%v", err)
		}
	}
	return unread
}

// runStruck lives through one such fault, a power cut, and another life.
func runStruck(seed uint64) (what string, refused error, unread int, err error) {
	var s *sim
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("seed %d (%s): %s", seed, what, f.msg)
		}
	}()
	s = newSimWith(seed, variant{})
	s.alone = true
	what = s.strike(int(seed % strikes))
	s.load.ErrorsOK, s.load.Left = true, 1<<30
	for n := 200 + s.w.Rand.IntN(3000); n > 0 && s.turn(); n-- {
	}
	s.load.Left = 0
	s.data.Heal()
	s.log.Heal()
	if s.w.Rand.IntN(2) == 0 { // it serves on: nothing wrong may be read now either
		for n := 20000; n > 0 && !s.load.Done() && s.turn(); n-- {
		}
		if s.load.Done() {
			unread = s.legal()
		}
	}
	s.data, s.log = s.data.Crash(), s.log.Crash()
	s.oracle.Crash()
	c, e := Open(Options{Data: s.data, Log: s.log, Incarnation: 99, DestageBytes: 32 << 10}, s.w.Drive)
	if e != nil {
		return what, e, unread, nil
	}
	s.c = c
	s.limits()
	return what, nil, unread + s.legal(), nil
}

// A disk that drops or misplaces a write, rots, fails or hangs never makes a read tell anything that was not
// written there: it is right, or an error, or the log is refused, by name.
func TestSimulationOfFaults(t *testing.T) {
	n := blktest.Seeds(t, 420)
	refused, unread := [strikes]int{}, [strikes]int{}
	for seed := range uint64(n) {
		what, e, lost, err := runStruck(seed)
		if err != nil {
			t.Fatal(err)
		}
		if e != nil {
			var c *seglog.CorruptError
			if !errors.As(e, &c) && !errors.Is(e, seglog.ErrReadError) && !errors.Is(e, ErrChanged) && !errors.Is(e, seglog.ErrCorrupt) {
				t.Fatalf("seed %d (%s): %v", seed, what, e)
			}
			refused[seed%strikes]++
		}
		if lost > 0 {
			unread[seed%strikes]++
		}
	}
	t.Logf("%d seeds; by fault: refused %v, something unreadable %v", n, refused, unread)
}
