package dcd

import (
	"bytes"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// What the data disk cannot read the peer serves, and the data disk is given it anew: its next read is good
// again. Not so where the log has something newer, or has brought it there meanwhile.
func TestUnreadableSectorsAreWrittenAnew(t *testing.T) {
	const off, n = 8192, 8192
	buf := make([]byte, 33<<10)[:n]
	for _, c := range []struct {
		name   string
		newer  func(s *sim) // between the peer's answer and the mending
		mended uint64
	}{
		{"alone", func(*sim) {}, 1},
		{"newer in the log", func(s *sim) { s.put(t, off+512, 7) }, 1},
		{"newer on the disk", func(s *sim) {
			s.put(t, off+512, 7)
			s.c.DestageAll(true)
			s.settle(func() bool { return s.c.Dirty() == 0 })
		}, 0},
	} {
		s, peer := quiet(t, 11)
		s.alone = true
		s.limits()
		s.c.SetFallback(peer)
		s.data.BadRange(off+4096, 512)
		var done tally
		r := &blk.Request{Op: blk.Read, Offset: off, Length: n, Buf: buf, Owner: &done}
		s.c.b.out++ // nothing goes to the disk below the log yet
		s.c.Submit(r)
		if !s.settle(func() bool { return done.n == 1 }) || r.Err != 0 || !bytes.Equal(r.Buf, peer.Bytes()[off:off+n]) {
			t.Fatalf("%s: %v", c.name, r.Err)
		}
		if !s.c.m.asked {
			t.Fatalf("%s: nothing is to be mended", c.name)
		}
		m := s.c.m
		s.c.m.asked = false
		s.c.b.out--
		c.newer(s)
		s.c.m.asked, s.c.m.cleared, s.c.m.req, s.c.m.buf = true, m.cleared, m.req, m.buf
		s.settle(func() bool { return !s.c.m.asked && !s.c.m.busy })
		if got := s.c.Status().Mended; got != c.mended {
			t.Errorf("%s: %d ranges were mended", c.name, got)
		}
		s.c.DestageAll(true)
		s.settle(func() bool { return s.c.Dirty() == 0 })
		want := bytes.Clone(peer.Bytes()[off : off+n])
		if c.name != "alone" {
			copy(want[512:], bytes.Repeat([]byte{7}, 512))
		}
		if c.mended == 0 {
			continue // the disk's bad sector is still bad
		}
		if got := s.data.Bytes()[off : off+n]; !bytes.Equal(got, want) {
			t.Errorf("%s: the disk holds something else", c.name)
		}
		if before := s.c.Status().ReadPeer; !s.reads(off, n) || s.c.Status().ReadPeer != before {
			t.Errorf("%s: the sector is still bad", c.name)
		}
	}
}

// put writes a sector.
func (s *sim) put(t *testing.T, off int64, b byte) {
	t.Helper()
	var done tally
	r := &blk.Request{Op: blk.Write, Offset: off, Length: blk.SectorBytes, Buf: append(make([]byte, 0, 33<<10), bytes.Repeat([]byte{b}, blk.SectorBytes)...), Owner: &done}
	s.c.Submit(r)
	if !s.settle(func() bool { return done.n == 1 }) || r.Err != 0 {
		t.Fatal(r.Err)
	}
}

// reads reports whether a range can be read.
func (s *sim) reads(off, n int64) bool {
	var done tally
	r := &blk.Request{Op: blk.Read, Offset: off, Length: n, Buf: make([]byte, 33<<10)[:n], Owner: &done}
	s.c.Submit(r)
	return s.settle(func() bool { return done.n == 1 }) && r.Err == 0
}
