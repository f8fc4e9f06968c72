package dcd

import (
	"bytes"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// What the log device gives back is what was written there, or an error: for every sector of it that rots, is
// put elsewhere, or falls back to what it held before.
func TestDamageOfTheLogIsNeverRead(t *testing.T) {
	s := newSim(4)
	s.alone = true
	s.c.HoldDestage(true)
	blank := append([]byte(nil), s.log.Bytes()...)
	want := make([]byte, simDisk)
	do := func(op blk.Op, off int64, b []byte) error {
		s.limits()
		return blk.Do(s.c, &blk.Request{Op: op, Offset: off, Length: int64(len(b)), Buf: b}, func() (blk.Instant, error) {
			s.w.Step()
			s.limits()
			return s.w.Time(), nil
		})
	}
	buf, err := blk.Alloc(64 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(buf)
	end := int64(0)
	for i := range int64(36) { // one behind the other, some over each other, odd sizes
		n := (1 + i*5%7) * blk.SectorBytes
		off := max(end-i%3*blk.SectorBytes, 0)
		for k := range buf[:n] {
			buf[k] = byte(i*31) ^ byte(k/7)
		}
		copy(want[off:], buf[:n])
		if err := do(blk.Write, off, buf[:n]); err != nil {
			t.Fatal(err)
		}
		end = off + n
	}
	if _, ok := s.c.log.Lookup(1); !ok || s.c.log.RAM(0, 512) != nil {
		t.Fatal("RAM has the whole log, or the log has given something back")
	}
	log := append([]byte(nil), s.log.Bytes()...)
	refused := 0
	look := func(how string, sector int64, fresh bool) {
		if fresh {
			clear(s.c.v.tables[:])
		}
		for off, n := int64(0), int64(0); off < end; off += n {
			n = min(blk.SectorBytes*(1+off/blk.SectorBytes%23), end-off)
			if err := do(blk.Read, off, buf[:n]); err != nil {
				refused++
			} else if !bytes.Equal(buf[:n], want[off:off+n]) {
				t.Fatalf("sector %d of the log %s: a read of [%d, +%d) gave something else than what was written", sector, how, off, n)
			}
		}
	}
	look("is good", -1, true)
	if refused > 0 || s.c.count.ReadLog == 0 {
		t.Fatalf("%d reads refused of a good log, %d from it", refused, s.c.count.ReadLog)
	}
	from := s.c.log.DeviceOffset(0) / blk.SectorBytes
	to := s.c.log.DeviceOffset(s.c.log.Head()) / blk.SectorBytes
	for i := from; i < to; i++ {
		at := i * blk.SectorBytes
		sector := log[at : at+blk.SectorBytes]
		other := log[from*blk.SectorBytes+(at*7919)%((to-from)*blk.SectorBytes)/blk.SectorBytes*blk.SectorBytes:][:blk.SectorBytes]
		for how, b := range map[string][]byte{"with a bit flipped": flipped(sector, int(i*37)), "with another one's contents": other, "as it was before": blank[at : at+blk.SectorBytes]} {
			s.log.RestoreRange(at, b)
			look(how, i, i%2 == 0)
		}
		s.log.RestoreRange(at, sector)
	}
	if refused == 0 || uint64(refused) > s.c.count.Rotten || s.c.Damaged() == 0 {
		t.Errorf("%d reads refused, %d counted, the last one for LSN %d", refused, s.c.count.Rotten, s.c.Damaged())
	}
	if len(s.c.v.free) != s.c.v.made {
		t.Errorf("%d of %d buffers came back", len(s.c.v.free), s.c.v.made)
	}
}

func flipped(b []byte, bit int) []byte {
	c := append([]byte(nil), b...)
	c[bit/8%len(c)] ^= 1 << (bit % 8)
	return c
}
