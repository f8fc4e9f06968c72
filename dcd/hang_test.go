package dcd

import (
	"bytes"
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// quiet is a volume whose data disk alone holds everything, with the peer's copy of it.
func quiet(t *testing.T, seed uint64) (s *sim, peer *blktest.Disk) {
	t.Helper()
	s = newSim(seed)
	s.load.Left = 200
	for !s.load.Done() {
		s.turn()
	}
	s.drain()
	s.c.DestageAll(false)
	peer = blktest.NewDisk(s.w, "peer", simDisk, 1000)
	peer.Restore(s.data.Bytes())
	return s, peer
}

// settle turns until done says so, or nothing happens any more.
func (s *sim) settle(done func() bool) bool {
	for range 100_000 {
		if done() {
			return true
		}
		if wake := s.c.Kick(s.w.Time()); wake > s.w.Now && !s.w.Turn(wake) {
			return done()
		}
	}
	return false
}

// A read whose disk hangs is answered by the peer after the disk's deadline, in a spare buffer;
// what the disk brings late lands in the old one and hurts nobody.
func TestHangingReadIsAnsweredFromThePeer(t *testing.T) {
	s, peer := quiet(t, 11)
	s.c.SetFallback(peer)
	s.data.HangNth(blk.Read, 1)
	var done tally
	mem := make([]byte, 33<<10)[:4096:8192]
	r := &blk.Request{Op: blk.Read, Offset: 8192, Length: 4096, Buf: mem, Owner: &done}
	begun := s.w.Now
	s.c.Submit(r)
	if !s.settle(func() bool { return done.n == 1 }) {
		t.Fatal("it waits for ever")
	}
	if took := s.w.Now - begun; r.Err != 0 || took < DefaultDiskNanos || took > 2*DefaultDiskNanos {
		t.Fatalf("%v after %d ns", r.Err, took)
	}
	if !bytes.Equal(r.Buf, peer.Bytes()[8192:12288]) {
		t.Fatal("not what the peer has")
	}
	if &r.Buf[0] == &mem[0] || cap(r.Buf) != 8192 {
		t.Fatal("the buffer that the kernel may still write to was given back")
	}
	if data, _ := s.c.Lost(); data == nil {
		t.Fatal("the disk does not count as failed")
	}
	if s.c.r.kept != 1 || !s.c.Busy() && s.data.Hung() == 0 {
		t.Fatalf("%d buffers in quarantine", s.c.r.kept)
	}
	spare := r.Buf
	s.data.Release()
	s.settle(func() bool { return s.c.r.kept == 0 })
	if s.c.r.kept != 0 || len(s.c.r.spares) != 1 || !bytes.Equal(spare, peer.Bytes()[8192:12288]) || len(s.c.r.free) != readParts {
		t.Fatal("the late answer was not put where it belongs")
	}
}

// Without a peer it is an error, after the deadline and never before.
func TestHangingReadFailsWithoutPeer(t *testing.T) {
	s, _ := quiet(t, 12)
	s.data.HangNth(blk.Read, 1)
	var done tally
	r := &blk.Request{Op: blk.Read, Length: 4096, Buf: make([]byte, 33<<10)[:4096], Owner: &done}
	s.c.Submit(r)
	if !s.settle(func() bool { return done.n == 1 }) || r.Err != syscall.EIO {
		t.Fatalf("%d answers, %v", done.n, r.Err)
	}
}

// A log that does not answer has failed after its deadline: writes are not acknowledged, and end.
func TestHangingLog(t *testing.T) {
	s, _ := quiet(t, 13)
	s.log.HangNth(blk.Write, 1)
	var done tally
	r := &blk.Request{Op: blk.Write, Length: 4096, Buf: make([]byte, 33<<10)[:4096], Owner: &done}
	begun := s.w.Now
	s.c.Submit(r)
	if !s.settle(func() bool { return done.n == 1 }) || r.Err != syscall.EIO || s.w.Now-begun < DefaultDiskNanos {
		t.Fatalf("%d answers, %v, after %d ns", done.n, r.Err, s.w.Now-begun)
	}
	if _, log := s.c.Lost(); log == nil {
		t.Fatal("the log does not count as failed")
	}
}

// A deadline that is changed counts for what is under way, on the data disk and on the log.
func TestTheDeadlineIsChangedMeanwhile(t *testing.T) {
	const short = DefaultDiskNanos / 10
	for _, op := range []blk.Op{blk.Read, blk.Write} {
		s, peer := quiet(t, 11)
		s.c.SetFallback(peer)
		disk := s.data
		if op == blk.Write {
			disk = s.log
		}
		disk.HangNth(op, 1)
		var done tally
		r := &blk.Request{Op: op, Offset: 8192, Length: 4096, Buf: make([]byte, 4096), Owner: &done}
		begun := s.w.Now
		s.c.Submit(r)
		s.c.Kick(s.w.Time())
		s.c.SetDiskDeadline(short)
		failed := func() bool { data, log := s.c.Lost(); return data != nil || log != nil }
		if !s.settle(failed) {
			t.Fatalf("%v: it waits for ever", op)
		}
		if took := s.w.Now - begun; took < short || took > 2*short {
			t.Errorf("%v: after %d ns", op, took)
		}
		if s.c.SetDiskDeadline(0); s.c.DiskDeadline() != DefaultDiskNanos {
			t.Errorf("%v: the default is %d ns", op, s.c.DiskDeadline())
		}
		disk.Release()
	}
}
