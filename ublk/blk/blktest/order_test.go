package blktest

import (
	"math/rand/v2"
	"testing"
)

// apply makes the state after the first k entries.
func apply(size int64, entries [][]Extent, k int) []byte {
	b := make([]byte, size)
	for _, e := range entries[:k] {
		for _, x := range e {
			Fill(b[x.Off:x.Off+x.N], x.Off, x.Value)
		}
	}
	return b
}

func randomOrder(seed uint64, size int64, n int) (*Order, [][]Extent) {
	r := rand.New(rand.NewPCG(seed, 1))
	o := NewOrder(size)
	entries := make([][]Extent, n)
	value := uint64(0)
	for i := range entries {
		for range r.IntN(4) {
			k := (1 + r.Int64N(8)) * 512
			value++
			x := Extent{Off: r.Int64N((size-k)/512+1) * 512, N: k, Value: value}
			if r.IntN(5) == 0 {
				x.Value = 0
			}
			entries[i] = append(entries[i], x)
		}
		o.Append(entries[i]...)
	}
	return o, entries
}

// Every prefix is found, and the state it gives is that of the image.
func TestOrderFindsPrefixes(t *testing.T) {
	const size, n = 16 << 10, 40
	for seed := range uint64(30) {
		o, entries := randomOrder(seed, size, n)
		for k := range n + 1 {
			image := apply(size, entries, k)
			for _, least := range []int{0, k / 2, k} {
				got, err := o.Check(image, least)
				if err != nil || got < least || got > k || string(apply(size, entries, got)) != string(image) {
					t.Fatalf("seed %d: prefix %d of at least %d: %d, %v", seed, k, least, got, err)
				}
			}
		}
	}
}

// What is no prefix is refused: an entry left out, one torn, one too old, garbage.
func TestOrderNotices(t *testing.T) {
	const size, n = 16 << 10, 40
	refused := map[string]int{}
	for seed := range uint64(60) {
		o, entries := randomOrder(seed, size, n)
		r := rand.New(rand.NewPCG(seed, 2))
		k := 2 + r.IntN(n-2)
		without := append(append([][]Extent(nil), entries[:r.IntN(k-1)]...), entries[k-1])
		images := map[string][]byte{"hole": apply(size, without, len(without)), "swap": apply(size, entries, k), "rot": apply(size, entries, k)}
		copy(images["swap"][512:], images["swap"][1024:1536])
		images["rot"][r.IntN(size)] ^= 0x10
		for name, image := range images {
			is := false
			for i := range n + 1 {
				is = is || string(apply(size, entries, i)) == string(image)
			}
			got, err := o.Check(image, 0)
			if (err == nil) != is {
				t.Fatalf("seed %d %s: %d, %v, but it is one: %v", seed, name, got, err, is)
			}
			if err != nil {
				refused[name]++
			}
		}
		if last := apply(size, entries, k); len(entries[k]) > 0 && string(apply(size, entries, n)) != string(last) {
			if got, err := o.Check(last, n); err == nil {
				t.Fatalf("seed %d: the state after %d passed for %d", seed, k, got)
			}
			refused["old"]++
		}
	}
	for _, name := range []string{"hole", "swap", "rot", "old"} {
		if refused[name] < 20 {
			t.Errorf("%s refused %d times of 60", name, refused[name])
		}
	}
}

// Within an entry the later extent wins; what it covered is never seen.
func TestOrderWithinAnEntry(t *testing.T) {
	o := NewOrder(1024)
	o.Append(Extent{0, 1024, 1}, Extent{512, 512, 2})
	image := make([]byte, 1024)
	Fill(image, 0, 1)
	if k, err := o.Check(image, 0); err == nil {
		t.Fatalf("half an entry passed as %d", k)
	}
	Fill(image[512:], 512, 2)
	if k, err := o.Check(image, 0); k != 1 || err != nil {
		t.Fatal(k, err)
	}
	if _, err := o.Check(image, 2); err == nil {
		t.Fatal("more entries than there are")
	}
	o = NewOrder(512)
	o.Append(Extent{0, 512, 3}, Extent{0, 512, 4})
	Fill(image[:512], 0, 3)
	if k, err := o.Check(image[:512], 0); err == nil {
		t.Fatalf("what an entry itself covered passed as %d", k)
	}
}

func TestOrderCutAndBase(t *testing.T) {
	const size = 8 << 10
	o := NewOrder(size)
	base := make([]byte, size)
	Fill(base[:1024], 0, 7)
	if err := o.Base(base); err != nil {
		t.Fatal(err)
	}
	if k, err := o.Check(base, 0); k != 0 || err != nil {
		t.Fatal(k, err)
	}
	o.Append(Extent{0, 512, 8})
	o.Append(Extent{512, 512, 9})
	o.Truncate(1)
	if o.Len() != 1 || o.Append(Extent{512, 512, 10}) != 2 {
		t.Fatal(o.Len())
	}
	image := append([]byte(nil), base...)
	Fill(image[:512], 0, 8)
	Fill(image[512:1024], 512, 9)
	if _, err := o.Check(image, 0); err == nil {
		t.Fatal("an entry that was cut went unnoticed")
	}
	Fill(image[512:1024], 512, 10)
	if k, err := o.Check(image, 2); k != 2 || err != nil {
		t.Fatal(k, err)
	}
}
