package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// body makes a segment-like body: kinds of blocks are random 'r', text 't' and zero '0'.
func body(first int, blocks string, tail int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(len(blocks))))
	b := make([]byte, first+len(blocks)*ElideBytes+tail)
	for i := range b[:first] {
		b[i] = byte(i)
	}
	for i, k := range blocks {
		c := b[first+i*ElideBytes:][:ElideBytes]
		switch k {
		case 'r':
			for j := range c {
				c[j] = byte(r.Uint32())
			}
		case 't':
			copy(c, bytes.Repeat([]byte(fmt.Sprintf("line %d of a log file\n", i)), ElideBytes/16))
		}
	}
	for i := range b[len(b)-tail:] {
		b[len(b)-tail+i] = byte(i % 3)
	}
	return b
}

func packer(t testing.TB, features uint64, zstd bool) *Packer {
	p := new(Packer)
	if err := p.SetZstd(zstd); err != nil {
		t.Fatal(err)
	}
	p.Begin(features)
	return p
}

func TestPack(t *testing.T) {
	var u Unpacker
	for _, x := range []struct {
		first  int
		blocks string
		tail   int
		peer   uint64
		zstd   bool
		flags  uint8
		most   int // packed bytes
	}{
		{512, "r", 0, Features, false, 0, 4608},
		{512, "0", 0, Features, false, FlagElided, 521},
		{512, "0", 0, 0, true, 0, 4608},
		{512, "0", 0, FeatureZstd, true, FlagZstd, 600},
		{512, "r0r", 100, Features, false, FlagElided, 512 + 8192 + 100 + 9},
		{0, "0", 0, Features, true, FlagElided, 9},
		{0, "00000000", 0, Features, true, FlagElided, 9},
		{0, "000000000", 511, Features, true, FlagElided | FlagZstd, 100},
		{1024, "tttt", 0, Features, false, 0, 1024 + 4*4096},
		{1024, "tttt", 0, Features, true, FlagZstd, 2000},
		{1024, "t0t0t0t0", 0, Features, true, FlagElided | FlagZstd, 2000},
		{1024, "t0t0t0t0", 0, FeatureElide, true, FlagElided, 1024 + 4*4096 + 9},
		{32, "rrrr0", 0, Features, true, FlagElided, 32 + 4*4096 + 9},
		{4096, strings.Repeat("tttr", 120), 0, Features, true, FlagZstd, 1 << 20},
		{4096, "0" + strings.Repeat("tttr", 120), 7, Features, true, FlagElided | FlagZstd, 1 << 20},
		{0, "", 100, Features, true, 0, 100},
		{0, "", 0, Features, true, 0, 0},
	} {
		p := packer(t, x.peer, x.zstd)
		b := body(x.first, x.blocks, x.tail)
		want := bytes.Clone(b)
		f := Frame{Kind: Segment, Body: b}
		p.Pack(&f, PackKey{Segment, 1, 0}, x.first)
		if f.Flags != x.flags || len(f.Body) > x.most {
			t.Errorf("%+v: flags %d, %d bytes of %d", x, f.Flags, len(f.Body), len(b))
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%+v: packing changed its source", x)
		}
		// Asked again with the same key it gives the same without looking.
		g := Frame{Kind: Segment, Body: make([]byte, len(b))}
		tried := p.Stats.Tried
		if p.Pack(&g, PackKey{Segment, 1, 0}, x.first); g.Flags != f.Flags || f.Flags != 0 && !bytes.Equal(g.Body, f.Body) || p.Stats.Tried != tried {
			t.Errorf("%+v: packed twice", x)
		}
		if err := u.Unpack(&f); err != nil || f.Flags != 0 || !bytes.Equal(f.Body, want) {
			t.Errorf("%+v: unpacked %d bytes, %v", x, len(f.Body), err)
		}
	}
}

// Bodies of all shapes come back as they were.
func TestPackRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	p, u := packer(t, Features, true), Unpacker{}
	for i := range 500 {
		blocks := make([]byte, r.IntN(40))
		for j := range blocks {
			blocks[j] = "rt000"[r.IntN(1+i%5)]
		}
		first := r.IntN(3000)
		want := body(first, string(blocks), r.IntN(ElideBytes))
		f := Frame{Kind: Resync, Body: want}
		p.Pack(&f, PackKey{Resync, uint64(i), 0}, first)
		if len(f.Body) > len(want) {
			t.Fatalf("%q from %d: it grew from %d to %d bytes", blocks, first, len(want), len(f.Body))
		}
		if err := u.Unpack(&f); err != nil || !bytes.Equal(f.Body, want) {
			t.Fatalf("%q from %d: %v", blocks, first, err)
		}
	}
	f := Frame{Kind: Segment, Body: make([]byte, MaxBody)}
	if p.Pack(&f, PackKey{}, 0); len(f.Body) != packHead+mapBytes {
		t.Fatal(len(f.Body))
	}
	if err := u.Unpack(&f); err != nil || len(f.Body) != MaxBody {
		t.Fatal(err)
	}
	f.Body = make([]byte, MaxBody+1)
	if p.Pack(&f, PackKey{A: 1}, 0); f.Flags != 0 || len(f.Body) != MaxBody+1 {
		t.Error("a body that is too big was packed")
	}
}

// The format is frozen; the bytes that Zstandard makes are its own.
func TestPackGolden(t *testing.T) {
	p := packer(t, Features, false)
	f := Frame{Kind: Segment, Body: body(4, "00t0", 2)}
	p.Pack(&f, PackKey{}, 4)
	if got := hex.EncodeToString(append(f.Body[:20:20], f.Body[len(f.Body)-3:]...)); got != goldenPack {
		t.Error(got)
	}
}

// After several bodies that do not shrink it tries only now and then, and recovers.
func TestPackBacksOff(t *testing.T) {
	p := packer(t, Features, true)
	key := uint64(0)
	pack := func(blocks string) uint8 {
		key++
		f := Frame{Kind: Segment, Body: body(512, blocks, 0)}
		p.Pack(&f, PackKey{Segment, key, 0}, 512)
		return f.Flags
	}
	for range 1000 {
		if pack("rr") != 0 {
			t.Fatal("random bytes shrank")
		}
	}
	if p.Stats.Tried > 16 || p.Stats.Tried < failsInRow || p.Stats.Tried+p.Stats.Skipped != 1000 || p.Stats.Shrunk != 0 {
		t.Errorf("%+v", p.Stats)
	}
	n := 0
	for pack("tt") == 0 {
		if n++; n > pauseMost {
			t.Fatal("it never tries again")
		}
	}
	for range 10 {
		if pack("tt") != FlagZstd {
			t.Error("it does not go on although bodies shrink")
		}
	}
}

func TestHostilePacks(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	head := func(size, first uint32, more ...byte) []byte {
		b := make([]byte, packHead)
		le.PutUint32(b, size)
		le.PutUint32(b[4:], first)
		return append(b, more...)
	}
	bomb := enc.EncodeAll(make([]byte, 100<<20), nil)
	small := enc.EncodeAll(make([]byte, 5000), nil)
	var u Unpacker
	for name, x := range map[string]struct {
		flags uint8
		body  []byte
	}{
		"an unknown flag":           {8, head(0, 0)},
		"no head":                   {FlagElided, head(0, 0)[:7]},
		"too big":                   {FlagElided, head(MaxBody+1, 0)},
		"huge":                      {FlagElided, head(1<<32-1, 1<<32-1)},
		"blocks behind the end":     {FlagElided, head(100, 101)},
		"no bitmap":                 {FlagElided, head(4096, 0)},
		"bits behind the end":       {FlagElided, head(4096, 0, 3)},
		"bytes are missing":         {FlagElided, head(8192, 0, 1)},
		"bytes are left over":       {FlagElided, head(4096, 0, 1, 0)},
		"nothing compressed":        {FlagZstd, head(4096, 0)},
		"no Zstandard":              {FlagZstd, head(4096, 0, 1, 2, 3, 4)},
		"a bomb":                    {FlagZstd, append(head(MaxBody, 0), bomb...)},
		"a small bomb":              {FlagZstd, append(head(4999, 0), small...)},
		"a bomb between two blocks": {FlagZstd | FlagElided, append(head(8192, 0, 1), small...)},
		"too little comes out":      {FlagZstd, append(head(5001, 0), small...)},
		"cut off":                   {FlagZstd, append(head(5000, 0), small[:len(small)-5]...)},
	} {
		f := Frame{Kind: Segment, Flags: x.flags, Body: x.body}
		if err := u.Unpack(&f); !errors.Is(err, ErrBody) && !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(u.buf) != MaxBody {
		t.Errorf("the buffer has %d bytes", len(u.buf))
	}
	f := Frame{Kind: Segment, Flags: FlagZstd, Body: append(head(5000, 0), small...)}
	if err := u.Unpack(&f); err != nil || !bytes.Equal(f.Body, make([]byte, 5000)) {
		t.Error("after all that:", err)
	}
}

func TestPackAllocations(t *testing.T) {
	var u Unpacker
	for _, x := range []struct {
		name   string
		zstd   bool
		blocks string
		most   float64
	}{{"nothing to do", false, "rrrr", 0}, {"zeros elided", false, "r0r0", 0}, {"compressed", true, "t0tt", 0}, {"not compressible", true, "rrrr", 0}} {
		p := packer(t, Features, x.zstd)
		b := body(512, x.blocks, 0)
		key := uint64(0)
		one := func() {
			key++
			f := Frame{Kind: Segment, Body: b}
			if p.Pack(&f, PackKey{Segment, key, 0}, 512); u.Unpack(&f) != nil || len(f.Body) != len(b) {
				t.Fatal("it failed")
			}
		}
		for range 50 {
			one()
		}
		if n := testing.AllocsPerRun(500, one); n > x.most {
			t.Errorf("%s: %v allocations", x.name, n)
		}
	}
}

func BenchmarkPack(b *testing.B) {
	for _, x := range []struct {
		name string
		zstd bool
		kind string
	}{{"off, random", false, "r"}, {"off, a quarter zeros", false, "rrr0"}, {"zstd, random", true, "r"}, {"zstd, text", true, "t"}} {
		raw := body(4096, string(bytes.Repeat([]byte(x.kind), 256/len(x.kind))), 0)
		var u Unpacker
		p := packer(b, Features, x.zstd)
		key := uint64(0)
		b.Run(x.name+", pack", func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for range b.N {
				key++
				f := Frame{Kind: Segment, Body: raw}
				p.Pack(&f, PackKey{Segment, key, 0}, 4096)
			}
		})
		f := Frame{Kind: Segment, Body: raw}
		p = packer(b, Features, x.zstd)
		p.Pack(&f, PackKey{}, 4096)
		b.Run(x.name+", unpack", func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for range b.N {
				g := f
				u.Unpack(&g)
			}
		})
	}
}
