package blktest

import (
	"encoding/binary"
	"fmt"
)

// Oracle knows, per 512-byte sector, which values may be read. A value is the number of the
// write that made it; the bytes of a sector are a function of that number and of the sector's
// own, so that data in the wrong place is noticed too. Value 0 is all zeros.
type Oracle struct {
	legal [][]uint64 // by sector: the base first, then writes that may or may not have happened
	next  uint64
}

// NewOracle covers size bytes that hold zeros.
func NewOracle(size int64) *Oracle {
	o := &Oracle{legal: make([][]uint64, size/512)}
	for i := range o.legal {
		o.legal[i] = []uint64{0}
	}
	return o
}

// Fill writes value into buf as the contents of the sectors from off on.
func Fill(buf []byte, off int64, value uint64) {
	for i := 0; i < len(buf); i += 512 {
		sector(buf[i:i+512], uint64(off+int64(i))/512, value)
	}
}

func sector(b []byte, num, value uint64) {
	if value == 0 {
		clear(b)
		return
	}
	binary.LittleEndian.PutUint64(b, value)
	binary.LittleEndian.PutUint64(b[8:], num)
	x := value*0x9e3779b97f4a7c15 ^ num*0xff51afd7ed558ccd
	for i := 16; i < 512; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], x)
		x += 0x9e3779b97f4a7c15
	}
}

// Value is what a sector's bytes say they are; an error names what is wrong with them.
func Value(b []byte, num uint64) (uint64, error) {
	v := binary.LittleEndian.Uint64(b)
	var want [512]byte
	sector(want[:], num, v)
	if string(want[:]) != string(b) {
		if at := binary.LittleEndian.Uint64(b[8:]); v != 0 && at != num {
			return v, fmt.Errorf("sector %d holds write %d of sector %d", num, v, at)
		}
		return v, fmt.Errorf("sector %d holds garbage (write %d?)", num, v)
	}
	return v, nil
}

// Begin numbers a write of [off, off+len(buf)), fills buf, and makes its value possible.
func (o *Oracle) Begin(buf []byte, off int64) (value uint64) {
	o.next++
	Fill(buf, off, o.next)
	for s := off / 512; s < (off+int64(len(buf)))/512; s++ {
		o.legal[s] = append(o.legal[s], o.next)
	}
	return o.next
}

// Ack makes value the only one of its sectors, but for writes begun after it.
func (o *Oracle) Ack(value uint64, off, n int64) {
	for s := off / 512; s < (off+n)/512; s++ {
		for i, v := range o.legal[s] {
			if v == value {
				o.legal[s] = append([]uint64(nil), o.legal[s][i:]...)
				break
			}
		}
	}
}

// Snapshot copies the legal values of a range, as they are when a read begins.
func (o *Oracle) Snapshot(off, n int64) [][]uint64 {
	out := make([][]uint64, n/512)
	for i := range out {
		out[i] = append([]uint64(nil), o.legal[off/512+int64(i)]...)
	}
	return out
}

// CheckRead says whether buf may be what a read of off returned, that began when before was
// taken: a value legal then, or one begun meanwhile.
func (o *Oracle) CheckRead(buf []byte, off int64, before [][]uint64) error {
	for i := 0; i < len(buf); i += 512 {
		num := uint64(off+int64(i)) / 512
		v, err := Value(buf[i:i+512], num)
		if err != nil {
			return err
		}
		if !has(o.legal[num], v) && !has(before[i/512], v) {
			return fmt.Errorf("sector %d holds write %d, legal are %v (%v when the read began)", num, v, o.legal[num], before[i/512])
		}
	}
	return nil
}

// Pin checks what is read after a crash and makes it the base: it must not change any more.
func (o *Oracle) Pin(buf []byte, off int64) error {
	for i := 0; i < len(buf); i += 512 {
		num := uint64(off+int64(i)) / 512
		v, err := Value(buf[i:i+512], num)
		if err != nil {
			return err
		}
		if !has(o.legal[num], v) {
			return fmt.Errorf("after the crash sector %d holds write %d, legal are %v", num, v, o.legal[num])
		}
		o.legal[num] = []uint64{v}
	}
	return nil
}

func has(s []uint64, v uint64) bool {
	for _, x := range s {
		if x == v {
			return true
		}
	}
	return false
}
