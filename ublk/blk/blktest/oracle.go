package blktest

import (
	"fmt"
)

// Oracle knows, per 512-byte sector, which values may be read. A value is the number of the
// write that made it (Fill, Value); value 0 is all zeros, as a device holds at first and after a
// discard or write-zeroes. The zero Volatile is a device whose acknowledgement means durable.
type Oracle struct {
	// Volatile: an acknowledged write is safe from a power cut only when it had FUA, or when a
	// flush that began later was acknowledged.
	Volatile bool

	sectors []sectorState
	cut     bool           // by a power cut, and nothing was written since
	clock   uint64         // numbers every begin and every end
	many    map[int64]bool // sectors that a power cut may change; order never matters
}

type sectorState struct {
	versions []version // the base first, then in the order in which they began
	zeroed   uint64    // when a discard or write-zeroes last began
}

// version is one thing that a sector may hold.
type version struct {
	value uint64 // number of its write, which is when it began
	end   uint64 // when its write was acknowledged or failed; 0: in flight
	zero  bool   // its bytes are zeros
	acked bool
	past  bool // it may not be read any more, but come back by a power cut
}

// Before is what a read may return, as it was when the read began.
type Before struct {
	clock    uint64
	versions [][]version
}

// NewOracle covers size bytes that hold zeros.
func NewOracle(size int64) *Oracle {
	o := &Oracle{sectors: make([]sectorState, size/512), many: map[int64]bool{}}
	for i := range o.sectors {
		o.sectors[i].versions = []version{{zero: true, acked: true, end: 1}}
	}
	o.clock = 1
	return o
}

// Begin numbers a write of [off, off+len(buf)), fills buf, and makes its value possible.
func (o *Oracle) Begin(buf []byte, off int64) (value uint64) {
	value = o.begin(off, int64(len(buf)), false)
	Fill(buf, off, value)
	return value
}

// BeginZeroes numbers a discard or write-zeroes of [off, off+n).
func (o *Oracle) BeginZeroes(off, n int64) (value uint64) { return o.begin(off, n, true) }

func (o *Oracle) begin(off, n int64, zero bool) uint64 {
	o.clock++
	o.cut = false
	for s := off / 512; s < (off+n)/512; s++ {
		x := &o.sectors[s]
		x.versions = append(x.versions, version{value: o.clock, zero: zero})
		if zero {
			x.zeroed = o.clock
		}
		if o.Volatile {
			o.many[s] = true
		}
	}
	return o.clock
}

// Ack says that write value is done. It displaces whatever had ended before it began: with
// nothing else in flight it is then the only legal value of its sectors.
func (o *Oracle) Ack(value uint64, off, n int64) { o.ack(value, off, n, !o.Volatile) }

// AckFUA is Ack of a write that is durable.
func (o *Oracle) AckFUA(value uint64, off, n int64) { o.ack(value, off, n, true) }

func (o *Oracle) ack(value uint64, off, n int64, durable bool) {
	o.clock++
	for s := off / 512; s < (off+n)/512; s++ {
		x := &o.sectors[s]
		for i := range x.versions {
			if v := &x.versions[i]; v.value == value && v.end == 0 {
				v.end, v.acked = o.clock, true
				x.displace(value, durable)
				break
			}
		}
	}
}

// displace takes out what ended before the write value began. Where that is not durable, the
// older ones may still come back.
func (x *sectorState) displace(value uint64, durable bool) {
	out := x.versions[:0]
	for _, v := range x.versions {
		if v.end != 0 && v.end < value {
			if durable {
				continue
			}
			v.past = true
		}
		out = append(out, v)
	}
	x.versions = out
}

// Fail says that write value ended with an error: it may or may not have happened, sector by sector.
func (o *Oracle) Fail(value uint64, off, n int64) {
	o.clock++
	for s := off / 512; s < (off+n)/512; s++ {
		for i := range o.sectors[s].versions {
			if v := &o.sectors[s].versions[i]; v.value == value && v.end == 0 {
				v.end = o.clock
			}
		}
	}
}

// BeginFlush gives what FlushAcked wants to know of a flush that begins now.
func (o *Oracle) BeginFlush() uint64 { return o.clock }

// FlushAcked says that the flush is done that began at begun: what was acknowledged then is durable.
func (o *Oracle) FlushAcked(begun uint64) {
	if !o.Volatile {
		return
	}
	for s := range o.many {
		x := &o.sectors[s]
		newest := uint64(0)
		for _, v := range x.versions {
			if v.acked && v.end <= begun {
				newest = max(newest, v.value)
			}
		}
		x.displace(newest, true)
		if len(x.versions) == 1 {
			delete(o.many, s)
		}
	}
}

// Crash says that the power was cut: until it is read (Pin), each sector may hold any version
// that was not durably displaced.
func (o *Oracle) Crash() {
	o.cut = true
	o.end(func(v *version) { v.past = false })
}

// Kill says that whoever had writes in flight is gone, while the disk stays alive and keeps its
// cache: each of them may or may not have happened.
func (o *Oracle) Kill() { o.end(func(*version) {}) }

func (o *Oracle) end(each func(*version)) {
	o.clock++
	for s := range o.sectors {
		for i := range o.sectors[s].versions {
			v := &o.sectors[s].versions[i]
			if each(v); v.end == 0 {
				v.end = o.clock
			}
		}
	}
}

// Snapshot keeps what is legal in a range when a read begins.
func (o *Oracle) Snapshot(off, n int64) Before {
	b := Before{clock: o.clock, versions: make([][]version, n/512)}
	for i := range b.versions {
		b.versions[i] = append([]version(nil), o.sectors[off/512+int64(i)].versions...)
	}
	return b
}

// CheckRead says whether buf may be what a read of off returned, that began when before was
// taken: a value legal then, or one begun meanwhile. Of writes that overlapped and are all
// acknowledged, what one read has seen is what every later one must see.
func (o *Oracle) CheckRead(buf []byte, off int64, before Before) error {
	for i := 0; i < len(buf); i += 512 {
		num := uint64(off+int64(i)) / 512
		v, err := Value(buf[i:i+512], num)
		if err != nil {
			return err
		}
		x := &o.sectors[num]
		meanwhile := v > before.clock && v <= o.clock || v == 0 && x.zeroed > before.clock
		if !meanwhile && !holds(x.versions, v) && !holds(before.versions[i/512], v) {
			return fmt.Errorf("sector %d holds write %d, legal are %v (%v when the read began)", num, v, legal(x.versions), legal(before.versions[i/512]))
		}
		x.settle(v, before.clock, o.Volatile)
	}
	return nil
}

// settle keeps only v of a sector whose every version was acknowledged before the read began.
func (x *sectorState) settle(v, begun uint64, volatile bool) {
	for _, o := range x.versions {
		if !o.past && (!o.acked || o.end > begun) {
			return
		}
	}
	if len(x.versions) < 2 || !holds(x.versions, v) {
		return
	}
	out := x.versions[:0]
	for _, o := range x.versions {
		if o.past = o.past || !o.is(v); volatile || !o.past {
			out = append(out, o)
		}
	}
	x.versions = out
}

// Pin checks what is read when nothing is in flight, as after a crash, and makes it the base: it
// must not change any more, but by a power cut where the device is volatile and none was just now.
func (o *Oracle) Pin(buf []byte, off int64) error {
	o.clock++
	for i := 0; i < len(buf); i += 512 {
		num := off/512 + int64(i)/512
		v, err := Value(buf[i:i+512], uint64(num))
		if err != nil {
			return err
		}
		x := &o.sectors[num]
		if !holds(x.versions, v) {
			return fmt.Errorf("after the crash sector %d holds write %d, legal are %v", num, v, legal(x.versions))
		}
		if !o.Volatile || o.cut {
			x.versions = append(x.versions[:0], version{value: v, end: o.clock, zero: v == 0, acked: true})
			delete(o.many, num)
			continue
		}
		for i := range x.versions {
			if y := &x.versions[i]; !y.is(v) {
				y.past = true
			} else if !y.past {
				y.acked = true
			}
		}
	}
	return nil
}

func (v *version) is(value uint64) bool {
	if v.zero {
		return value == 0
	}
	return v.value == value
}

func holds(s []version, value uint64) bool {
	for i := range s {
		if !s[i].past && s[i].is(value) {
			return true
		}
	}
	return false
}

// legal lists what may be read, for messages.
func legal(s []version) []uint64 {
	var out []uint64
	for _, v := range s {
		switch {
		case v.past:
		case v.zero:
			out = append(out, 0)
		default:
			out = append(out, v.value)
		}
	}
	return out
}
