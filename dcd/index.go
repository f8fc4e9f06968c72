package dcd

import (
	"errors"
	"math/bits"

	"github.com/robib-ublk/robib/ublk/blk"
)

// BlockBytes is the unit of the map.
const BlockBytes = 4096

const (
	sectors  = BlockBytes / blk.SectorBytes // of a block, one bit each in a mask
	fullMask = 1<<sectors - 1
)

// index maps a 4-KiB block to where its newest bytes lie in the log. A block has several
// entries, with disjoint masks, when parts of it were written apart: a newer write takes its
// sectors out of the older entries, so nothing is ever merged or copied. It is open-addressed,
// linear probing, 9 bytes an entry, outside the Go heap.
//
// An entry's base is the log position, in sectors, at which the block's sector 0 would lie, low
// 32 bits; it also names the version.
type index struct {
	keys  []uint32 // block + 1; 0: free
	bases []uint32
	masks []uint8
	mem   []byte
	shift uint
	n     int // entries
	limit int // at most that many
}

// newIndex makes room for at least want entries.
func newIndex(want int) (*index, error) {
	b := max(bits.Len(uint(want*4/3)), 8)
	n := 1 << b
	x := &index{shift: uint(32 - b), limit: n * 4 / 5}
	if b > 31 {
		return nil, errors.New("dcd: the log is too large for the map")
	}
	var err error
	if x.mem, err = blk.Alloc(n * 9); err != nil {
		return nil, err
	}
	x.keys, x.bases, x.masks = carve(x.mem, n)
	return x, nil
}

func (x *index) close() error { return blk.Free(x.mem) }

// reset empties the map.
func (x *index) reset() {
	clear(x.mem)
	x.n = 0
}

// room reports whether n more entries fit.
func (x *index) room(n int) bool { return x.n+n <= x.limit }

func (x *index) slot(block uint32) int { return int(block * 2654435769 >> x.shift) }

// first finds block's first entry, -1 if it has none.
func (x *index) first(block uint32) int { return x.from(block, x.slot(block)) }

// next finds block's entry after i.
func (x *index) next(block uint32, i int) int { return x.from(block, (i+1)&(len(x.keys)-1)) }

func (x *index) from(block uint32, i int) int {
	for m := len(x.keys) - 1; x.keys[i] != 0; i = (i + 1) & m {
		if x.keys[i] == block+1 {
			return i
		}
	}
	return -1
}

// put makes base the version of block's sectors in mask.
func (x *index) put(block uint32, mask uint8, base uint32) {
	reuse, empty := -1, 0
	for i := x.first(block); i >= 0; i = x.next(block, i) {
		if x.masks[i] &^= mask; x.masks[i] == 0 {
			empty++
			reuse = i
		}
	}
	if reuse >= 0 {
		x.bases[reuse], x.masks[reuse] = base, mask
		for ; empty > 1; empty-- {
			x.dropEmpty(block)
		}
		return
	}
	i := x.slot(block)
	for m := len(x.keys) - 1; x.keys[i] != 0; {
		i = (i + 1) & m
	}
	x.keys[i], x.bases[i], x.masks[i] = block+1, base, mask
	x.n++
}

// clear takes the sectors in mask away from the entries that still name base; newer ones stay.
// Two records that lie side by side in a segment may give one block the same base.
func (x *index) clear(block uint32, mask uint8, base uint32) {
	x.take(block, mask, base, Planted && Plant == "clear-newer")
}

// remove takes the sectors in mask away from all of block's entries.
func (x *index) remove(block uint32, mask uint8) { x.take(block, mask, 0, true) }

// take is clear, or, with every, remove.
func (x *index) take(block uint32, mask uint8, base uint32, every bool) {
	for i := x.first(block); i >= 0; {
		if x.masks[i]&mask == 0 || x.bases[i] != base && !every {
			i = x.next(block, i)
			continue
		}
		if x.masks[i] &^= mask; x.masks[i] == 0 {
			x.drop(i)
			i = x.first(block)
		}
	}
}

// removeIf looks at every entry in the map; gone says which of its sectors go.
func (x *index) removeIf(gone func(block, base uint32, mask uint8) uint8) {
	for i := 0; i < len(x.keys); {
		if x.keys[i] == 0 {
			i++
			continue
		}
		x.masks[i] &^= gone(x.keys[i]-1, x.bases[i], x.masks[i])
		if x.masks[i] != 0 {
			i++
			continue
		}
		x.drop(i) // another entry may have moved here
	}
}

func (x *index) dropEmpty(block uint32) {
	for i := x.first(block); i >= 0; i = x.next(block, i) {
		if x.masks[i] == 0 {
			x.drop(i)
			return
		}
	}
}

// drop removes entry i and moves up those behind it that belong further up.
func (x *index) drop(i int) {
	m := len(x.keys) - 1
	x.n--
	for j := (i + 1) & m; x.keys[j] != 0; j = (j + 1) & m {
		home := x.slot(x.keys[j] - 1)
		// j may move to i unless its home lies behind i, cyclically.
		if (j-home)&m >= (j-i)&m {
			x.keys[i], x.bases[i], x.masks[i] = x.keys[j], x.bases[j], x.masks[j]
			i = j
		}
	}
	x.keys[i], x.bases[i], x.masks[i] = 0, 0, 0
}
