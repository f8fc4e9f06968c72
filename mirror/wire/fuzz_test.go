package wire

import (
	"bytes"
	"testing"
)

// The seeds in testdata/fuzz were recorded from sessions between two nodes:
// go test ./mirror/mirrortest -run Seeds -record.

func FuzzHead(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeadBytes {
			return
		}
		g, n, err := ParseHead(b[:HeadBytes])
		if err != nil {
			return
		}
		if n > MaxBody || n < 0 {
			t.Fatal(n)
		}
		body := b[HeadBytes:]
		if n != len(body) || CheckBody(b, body) != nil {
			return
		}
		g.Body = body
		again := make([]byte, HeadBytes)
		PutHead(again, &g)
		if !bytes.Equal(again[8:HeadBytes-8], b[8:HeadBytes-8]) || again[4] != b[4] || again[5] != b[5] {
			t.Fatalf("%x became %x", b[:HeadBytes], again)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHello(b)
		if err != nil || h.MinVersion > Version || h.Version < MinVersion {
			return
		}
		if g, err := DecodeHello(h.Encode()); err != nil || g != h {
			t.Fatalf("%+v became %+v, %v", h, g, err)
		}
	})
}

func FuzzDecision(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDecision(b)
		if err != nil {
			return
		}
		if g, err := DecodeDecision(d.Encode()); err != nil || g != d {
			t.Fatalf("%+v became %+v, %v", d, g, err)
		}
	})
}

func FuzzPoints(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodePoints(b)
		if err != nil {
			return
		}
		if len(p) > MaxPoints || !bytes.Equal(EncodePoints(p), b) {
			t.Fatalf("%x became %v", b, p)
		}
	})
}

func FuzzWait(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		ns, err := DecodeWait(b)
		if err != nil {
			return
		}
		if ns <= 0 || ns > MaxWait || !bytes.Equal(EncodeWait(ns), b) {
			t.Fatalf("%x became %d", b, ns)
		}
	})
}

func FuzzBacklog(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeBacklog(b)
		if err != nil {
			return
		}
		var c [BacklogBytes]byte
		if l.Put(c[:]); !bytes.Equal(c[:], b) {
			t.Fatalf("%x became %+v", b, l)
		}
	})
}

func FuzzRange(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < 0 {
			return
		}
		r, data, err := ParseRange(b, size)
		if err != nil {
			return
		}
		if r.Offset < 0 || r.Length <= 0 || r.Offset+r.Length > size || r.Length > MaxBody || len(data) != 0 && int64(len(data)) != r.Length {
			t.Fatalf("%+v of %d with %d bytes", r, size, len(data))
		}
		var c [RangeBytes]byte
		r.Put(c[:])
		if g, _, err := ParseRange(c[:], size); err != nil || g != r {
			t.Fatalf("%+v became %+v, %v", r, g, err)
		}
	})
}

// What was packed by anybody comes out within bounds, the same each time, and packs again.
func FuzzUnpack(f *testing.F) {
	var u, v Unpacker // used for every input, as for every frame
	p := packer(f, Features, true)
	key := uint64(0)
	f.Fuzz(func(t *testing.T, flags uint8, b []byte) {
		in := bytes.Clone(b)
		g := Frame{Kind: Segment, Flags: flags, Body: b}
		err := u.Unpack(&g)
		if !bytes.Equal(in, b) {
			t.Fatal("unpacking changed its source")
		}
		if len(u.buf) > MaxBody {
			t.Fatal("the buffer grew")
		}
		if err != nil {
			return
		}
		if g.Flags != 0 || flags != 0 && (len(g.Body) > MaxBody || cap(g.Body) > MaxBody) {
			t.Fatalf("flags %d, %d bytes", g.Flags, len(g.Body))
		}
		key++
		h := Frame{Kind: Segment, Body: g.Body}
		p.Pack(&h, PackKey{A: key}, 0)
		if err := v.Unpack(&h); err != nil || !bytes.Equal(h.Body, g.Body) {
			t.Fatalf("packed again: %v", err)
		}
	})
}

// Whatever is packed comes out as it was, and is no longer than that.
func FuzzPack(f *testing.F) {
	var u Unpacker
	ps := [2]*Packer{packer(f, Features, false), packer(f, Features, true)}
	key := uint64(0)
	f.Fuzz(func(t *testing.T, b []byte, first int, zeros uint16) {
		// The fuzzer does not come upon 4 KiB of zeros by itself.
		if at := int(zeros); at < len(b) {
			b = append(append(bytes.Clone(b[:at]), make([]byte, 2*ElideBytes)...), b[at:]...)
		}
		if first < 0 || first > len(b) || len(b) > MaxBody {
			return
		}
		for _, p := range ps {
			key++
			p.fails, p.skip = 0, 0 // it tries each time
			g := Frame{Kind: Segment, Body: b}
			p.Pack(&g, PackKey{A: key}, first)
			if len(g.Body) > len(b) {
				t.Fatalf("%d bytes became %d", len(b), len(g.Body))
			}
			if err := u.Unpack(&g); err != nil || !bytes.Equal(g.Body, b) {
				t.Fatalf("%d bytes from %d: %v", len(b), first, err)
			}
		}
	})
}

func FuzzComparison(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < 0 {
			return
		}
		c, err := ParseComparison(b, size)
		if err != nil {
			return
		}
		if n := PiecesOf(c.Length, c.PieceBytes); n < 1 || n > MaxPieces || len(c.Hashes) != n*HashBytes || c.Offset < 0 || c.Offset+c.Length > size {
			t.Fatalf("%+v of %d", c, size)
		}
		again := make([]byte, CompareHead, len(b))
		c.Put(again)
		if d, err := ParseComparison(append(again, c.Hashes...), size); err != nil || d.Range != c.Range || d.PieceBytes != c.PieceBytes {
			t.Fatalf("%+v became %+v, %v", c, d, err)
		}
	})
}

func FuzzDiffers(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < 0 {
			return
		}
		r, p, err := ParseDiffers(b, size)
		if err != nil {
			return
		}
		runs := 0
		for q := p; ; runs++ {
			i, j, ok := q.Run()
			if !ok {
				break
			}
			if i >= j || j > MaxPieces || runs > MaxPieces {
				t.Fatalf("%v: run %d to %d", p, i, j)
			}
			q.Drop(i, j)
		}
		again := make([]byte, DiffersBytes)
		PutDiffers(again, r, &p)
		if s, q, err := ParseDiffers(again, size); err != nil || s != r || q != p {
			t.Fatalf("%+v %v became %+v %v, %v", r, p, s, q, err)
		}
	})
}
