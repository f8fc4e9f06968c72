package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
)

func sampleHello() HelloMsg {
	return HelloMsg{Version: 1, MinVersion: 1, Required: 2, Offered: 3, Volume: [16]byte{1}, Session: [16]byte{2}, Connection: 4, Primary: true, New: true, Mode: 1,
		Marks: 5, DiskBytes: 1 << 30, DiskBlock: 512, LogBlock: 4096, MaxSegment: 1 << 20, Term: Term{6, 7}, First: Point{8, 9}, Last: Point{10, 11}, Declared: 12, Destaged: 13, Name: "vdb"}
}

// Version 1 is frozen: these bytes never change.
func TestGolden(t *testing.T) {
	f := Frame{Kind: Segment, Flags: 1, Term: Term{2, 3}, LSN: 4, Durable: 5, Sent: 6, Body: []byte("body")}
	b := make([]byte, HeadBytes)
	PutHead(b, &f)
	if got := hex.EncodeToString(b); got != goldenFrame {
		t.Errorf("frame: %s", got)
	}
	swap := EncodeWait(30e9)
	swap = append(swap, make([]byte, BacklogBytes)...)
	Backlog{7, 240}.Put(swap[8:])
	if got := hex.EncodeToString(swap); got != goldenSwap {
		t.Errorf("wait and backlog: %s", got)
	}
	h := sampleHello()
	if got := hex.EncodeToString(h.Encode()); got != goldenHello {
		t.Errorf("hello: %s", got)
	}
	h.StageRoom, h.Staging, h.Visible = 14, true, Point{15, 16}
	stage := append(h.Encode()[helloBytes-16:], (&DecisionMsg{Way: MapSync, Stage: true}).Encode()[:8]...)
	if got := hex.EncodeToString(stage); got != goldenStage {
		t.Errorf("a sync that is staged: %s", got)
	}
}

func TestRoundTrips(t *testing.T) {
	f := Frame{Kind: Ack, Flags: 9, Term: Term{2, 3}, LSN: 4, Durable: 5, Sent: -6, Body: []byte("body")}
	b := make([]byte, HeadBytes)
	PutHead(b, &f)
	g, n, err := ParseHead(b)
	g.Body = f.Body
	if err != nil || n != 4 || g.Kind != f.Kind || g.Flags != f.Flags || g.Term != f.Term || g.LSN != f.LSN || g.Durable != f.Durable || g.Sent != f.Sent || CheckBody(b, f.Body) != nil {
		t.Fatalf("%+v %d %v", g, n, err)
	}
	if CheckBody(b, []byte("Body")) == nil {
		t.Error("a damaged body passed")
	}
	for i := range 60 {
		c := bytes.Clone(b)
		c[i] ^= 0x10
		if _, _, err := ParseHead(c); err == nil {
			t.Errorf("byte %d damaged, and nobody noticed", i)
		}
	}
	f.Body = make([]byte, MaxBody+1)
	PutHead(b, &f)
	if _, _, err := ParseHead(b); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	f.Kind, f.Body = 99, nil
	PutHead(b, &f)
	if _, _, err := ParseHead(b); !errors.Is(err, ErrKind) {
		t.Error(err)
	}
	h := sampleHello()
	if g, err := DecodeHello(h.Encode()); err != nil || g != h {
		t.Errorf("%+v %v", g, err)
	}
	h.StageRoom, h.Staging, h.Visible = 14, true, Point{15, 16}
	if g, err := DecodeHello(h.Encode()); err != nil || g != h {
		t.Errorf("%+v %v", g, err)
	}
	if _, err := DecodeHello(h.Encode()[:helloBytes]); !errors.Is(err, ErrBody) {
		t.Errorf("a hello without what is visible: %v", err)
	}
	d := DecisionMsg{Way: FullSync, Cut: true, Parted: true, Stage: true, At: Point{1, 2}, Mode: 1, Volume: [16]byte{3}, Reason: "because"}
	if g, err := DecodeDecision(d.Encode()); err != nil || g != d {
		t.Errorf("%+v %v", g, err)
	}
	p := []Point{{1, 2}, {3, 4}}
	if g, err := DecodePoints(EncodePoints(p)); err != nil || len(g) != 2 || g[1] != p[1] {
		t.Error(g, err)
	}
	r := Range{ID: 1, Offset: 512, Length: 1024, Errno: 5}
	b = make([]byte, RangeBytes+1024)
	r.Put(b)
	if g, data, err := ParseRange(b, 1<<20); err != nil || g != r || len(data) != 1024 {
		t.Error(g, err)
	}
	for _, bad := range []Range{{Offset: -512, Length: 512}, {Offset: 1 << 20, Length: 512}, {Length: 0}, {Length: 100}, {Length: 1 << 40}, {Offset: 1<<62 + 512, Length: 512}} {
		bad.Put(b)
		if _, _, err := ParseRange(b[:RangeBytes], 1<<20); err == nil {
			t.Errorf("%+v passed", bad)
		}
	}
}

func TestHeadAllocatesNothing(t *testing.T) {
	f := Frame{Kind: Segment, Body: make([]byte, 4096)}
	b := make([]byte, HeadBytes)
	if n := testing.AllocsPerRun(100, func() {
		PutHead(b, &f)
		if _, _, err := ParseHead(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatal(n)
	}
}

// Only a segment goes without a checksum of the frame's: it has its own.
func TestOwnSum(t *testing.T) {
	b := make([]byte, HeadBytes)
	for k := Hello; k <= Progress; k++ {
		PutHead(b, &Frame{Kind: k, Flags: FlagOwnSum, Body: []byte("body")})
		err := CheckBody(b, []byte("Body"))
		if (err == nil) != (k == Segment) {
			t.Errorf("kind %d: %v", k, err)
		}
	}
}

func sampleComparison() []byte {
	c := Comparison{Range: Range{ID: 7, Offset: 512, Length: 3 * 1024}, PieceBytes: 2048}
	b := make([]byte, CompareHead+2*HashBytes)
	c.Put(b)
	for i, s := range []string{"one piece", "another"} {
		h := HashOf([]byte(s))
		copy(b[CompareHead+i*HashBytes:], h[:])
	}
	return b
}

// Both frames of a comparison are frozen, the hash with them.
func TestComparison(t *testing.T) {
	b := sampleComparison()
	if got := hex.EncodeToString(b); got != goldenCompare {
		t.Errorf("comparison: %s", got)
	}
	c, err := ParseComparison(b, 1<<20)
	if h := HashOf([]byte("another")); err != nil || c.Range != (Range{ID: 7, Offset: 512, Length: 3 * 1024}) || c.PieceBytes != 2048 || !bytes.Equal(c.Hashes[HashBytes:], h[:]) {
		t.Fatalf("%+v %v", c, err)
	}
	for what, bad := range map[string]func(){
		"no hash":         func() { b = b[:len(b)-HashBytes] },
		"half a hash":     func() { b = b[:len(b)-1] },
		"one hash more":   func() { b = append(b, make([]byte, HashBytes)...) },
		"no piece size":   func() { le.PutUint32(b[RangeBytes:], 0) },
		"odd pieces":      func() { le.PutUint32(b[RangeBytes:], 2049) },
		"behind the disk": func() { le.PutUint64(b[8:], 1<<20-1024) },
		"too many pieces": func() { le.PutUint64(b[16:], 512*(MaxPieces+1)); le.PutUint32(b[RangeBytes:], 512) },
	} {
		b = sampleComparison()
		if bad(); true {
			if _, err := ParseComparison(b, 1<<20); err == nil {
				t.Errorf("%s passed", what)
			}
		}
	}
	var p Pieces
	if _, _, ok := p.Run(); ok || p.Count() != 0 || !p.Within(0) {
		t.Error("an empty set")
	}
	for _, i := range []int{1, 62, 63, 64, 65, 200} {
		p.Add(i)
	}
	b = make([]byte, DiffersBytes)
	PutDiffers(b, c.Range, &p)
	if got := hex.EncodeToString(b); got != goldenDiffers {
		t.Errorf("answer: %s", got)
	}
	if r, q, err := ParseDiffers(b, 1<<20); err != nil || r != c.Range || q != p {
		t.Errorf("%+v %v %v", r, q, err)
	}
	if _, _, err := ParseDiffers(b[:DiffersBytes-1], 1<<20); err == nil {
		t.Error("a short answer passed")
	}
	if p.Within(200) || !p.Within(201) || p.Within(64) || p.Count() != 6 {
		t.Errorf("%v", p)
	}
	for _, want := range [][2]int{{1, 2}, {62, 66}, {200, 201}} {
		i, j, ok := p.Run()
		if !ok || [2]int{i, j} != want {
			t.Errorf("run %d to %d, want %v", i, j, want)
		}
		p.Drop(i, j)
	}
	if p.Add(MaxPieces - 1); p.Within(MaxPieces-1) || !p.Within(MaxPieces) {
		t.Errorf("%v", p)
	}
	if i, j, _ := p.Run(); i != MaxPieces-1 || j != MaxPieces {
		t.Errorf("run %d to %d", i, j)
	}
}

// A piece of zeros has the hash that any other way of hashing it gives.
func TestHashOfZeros(t *testing.T) {
	for _, n := range []int{512, PieceBytes, 65536} {
		b := make([]byte, n)
		s := sha256.Sum256(b)
		if HashOf(b) != Hash(s[:HashBytes]) {
			t.Errorf("%d zeros", n)
		}
		for _, at := range []int{0, 63, 64, n - 1} {
			if b[at] = 1; HashOf(b) == Hash(s[:HashBytes]) || IsZero(b) {
				t.Errorf("a one at %d of %d is not seen", at, n)
			}
			b[at] = 0
		}
	}
}
