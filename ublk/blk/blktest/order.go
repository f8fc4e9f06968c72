package blktest

import (
	"fmt"
	"sort"
)

// Extent is what one write, discard or write-zeroes did to [Off, Off+N).
type Extent struct {
	Off, N int64
	Value  uint64 // 0: zeros
}

// Order knows a sequence of writes and says whether a disk holds a prefix of it, as a secondary
// must: the state after the first k entries, for one k. An entry is what becomes visible at
// once, as a segment does; within it a later extent wins.
type Order struct {
	sectors []([]turn)
	n       int
}

// turn is what a sector holds from an entry on, until its next turn.
type turn struct {
	entry int
	value uint64
}

// NewOrder covers size bytes that hold zeros before the first entry.
func NewOrder(size int64) *Order {
	o := &Order{sectors: make([][]turn, size/512)}
	for i := range o.sectors {
		o.sectors[i] = []turn{{}}
	}
	return o
}

// Base makes image, stamped sectors or zeros, the state before the first entry, and forgets all entries.
func (o *Order) Base(image []byte) error {
	o.n = 0
	for i := range o.sectors {
		v, err := Value(image[i*512:(i+1)*512], uint64(i))
		if err != nil {
			return err
		}
		o.sectors[i] = append(o.sectors[i][:0], turn{0, v})
	}
	return nil
}

// Append adds the next entry and gives its number; the first is 1. It may be empty.
func (o *Order) Append(e ...Extent) int {
	o.n++
	for _, x := range e {
		for s := x.Off / 512; s < (x.Off+x.N)/512; s++ {
			t := o.sectors[s]
			if last := &t[len(t)-1]; last.entry == o.n {
				last.value = x.Value
				continue
			}
			o.sectors[s] = append(t, turn{o.n, x.Value})
		}
	}
	return o.n
}

// Len is the number of entries.
func (o *Order) Len() int { return o.n }

// Truncate forgets the entries after the first n: they were cut and will never be seen.
func (o *Order) Truncate(n int) {
	for s, t := range o.sectors {
		for t[len(t)-1].entry > n {
			t = t[:len(t)-1]
		}
		o.sectors[s] = t
	}
	o.n = min(o.n, n)
}

// Check finds the smallest k >= atLeast for which image is the state after k entries.
func (o *Order) Check(image []byte, atLeast int) (k int, err error) {
	spans, where := []span{{int64(atLeast), int64(o.n - atLeast + 1)}}, -1
	for s, t := range o.sectors {
		v, err := Value(image[s*512:(s+1)*512], uint64(s))
		if err != nil {
			return 0, err
		}
		next := intersect(spans, o.holding(t, v))
		if len(next) == 0 {
			return 0, fmt.Errorf("no prefix: sector %d holds write %d, as after %s; other sectors (last %d) allow %s of %d entries",
				s, v, show(o.holding(t, v)), where, show(spans), o.n)
		}
		if len(next) != len(spans) || next[0] != spans[0] {
			where = s
		}
		spans = next
	}
	return int(spans[0].off), nil
}

// holding lists the counts of entries after which a sector with turns t holds value.
func (o *Order) holding(t []turn, value uint64) []span {
	var out []span
	for i, x := range t {
		if x.value != value {
			continue
		}
		end := o.n + 1
		if i+1 < len(t) {
			end = t[i+1].entry
		}
		if k := len(out) - 1; k >= 0 && out[k].off+out[k].n == int64(x.entry) {
			out[k].n = int64(end) - out[k].off
			continue
		}
		out = append(out, span{int64(x.entry), int64(end - x.entry)})
	}
	return out
}

// intersect gives what lies in both of two sorted lists.
func intersect(a, b []span) []span {
	var out []span
	for _, x := range a {
		i := sort.Search(len(b), func(i int) bool { return b[i].off+b[i].n > x.off })
		for ; i < len(b) && b[i].off < x.off+x.n; i++ {
			from, to := max(x.off, b[i].off), min(x.off+x.n, b[i].off+b[i].n)
			out = append(out, span{from, to - from})
		}
	}
	return out
}

func show(s []span) string {
	if len(s) == 0 {
		return "none"
	}
	out := ""
	for i, x := range s {
		if i == 4 {
			return out + " …"
		}
		if i > 0 {
			out += ", "
		}
		out += fmt.Sprintf("%d to %d", x.off, x.off+x.n-1)
	}
	return out
}
