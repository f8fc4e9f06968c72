package blktest

import (
	"encoding/binary"
	"fmt"
)

// Fill writes value into buf as the contents of the sectors from off on. The bytes of a sector
// are a function of the value and of the sector's number, so that data in the wrong place is
// noticed too. Value 0 is all zeros.
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
