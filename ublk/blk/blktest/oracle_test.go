package blktest

import (
	"slices"
	"testing"
)

// oracleRig has one 4-KiB place and the data of each write.
type oracleRig struct {
	*Oracle
	data map[uint64][]byte
}

const place = 4096

func newOracleRig(volatile bool) *oracleRig {
	o := NewOracle(1 << 20)
	o.Volatile = volatile
	return &oracleRig{o, map[uint64][]byte{0: make([]byte, 512)}}
}

func (g *oracleRig) begin() uint64 {
	b := make([]byte, 512)
	v := g.Begin(b, place)
	g.data[v] = b
	return v
}

// reads lists which values a read that begins and ends now may return.
func (g *oracleRig) reads() []uint64 {
	var out []uint64
	for v, b := range g.data {
		c := *g.Oracle
		c.sectors = slices.Clone(g.sectors)
		for i := range c.sectors {
			c.sectors[i].versions = slices.Clone(g.sectors[i].versions)
		}
		if c.CheckRead(b, place, c.Snapshot(place, 512)) == nil {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

func (g *oracleRig) want(t *testing.T, when string, v ...uint64) {
	t.Helper()
	if got := g.reads(); !slices.Equal(got, v) {
		t.Errorf("%s: legal are %v, should be %v", when, got, v)
	}
}

func TestOracleWrites(t *testing.T) {
	g := newOracleRig(false)
	g.want(t, "new", 0)
	a := g.begin()
	g.want(t, "in flight", 0, a)
	g.Ack(a, place, 512)
	g.want(t, "acknowledged", a)
	b := g.begin()
	g.Fail(b, place, 512)
	g.want(t, "failed", a, b)
	c := g.begin()
	g.Ack(c, place, 512)
	g.want(t, "a later one acknowledged", c)
	g.Crash()
	g.want(t, "cut", c)
	z := g.BeginZeroes(place, 512)
	g.want(t, "discard in flight", 0, c)
	g.Ack(z, place, 512)
	g.want(t, "discarded", 0)
}

// Of two writes that were in flight together either may win, but once only.
func TestOracleOverlap(t *testing.T) {
	g := newOracleRig(false)
	a, b := g.begin(), g.begin()
	g.Ack(b, place, 512)
	g.want(t, "one of two acknowledged", a, b)
	g.Ack(a, place, 512)
	g.want(t, "both acknowledged", a, b)
	if err := g.CheckRead(g.data[a], place, g.Snapshot(place, 512)); err != nil {
		t.Fatal(err)
	}
	g.want(t, "one of them read", a)
	g.Crash()
	g.want(t, "cut after that", a)
}

func TestOracleVolatile(t *testing.T) {
	g := newOracleRig(true)
	a := g.begin()
	g.Ack(a, place, 512)
	g.want(t, "acknowledged", a)
	early := g.BeginFlush()
	b := g.begin()
	g.Ack(b, place, 512)
	g.want(t, "both acknowledged", b)
	g.FlushAcked(early)
	g.want(t, "flushed", b)
	g.Crash()
	g.want(t, "cut: the first was flushed", a, b)
	if err := g.Pin(g.data[a], place); err != nil {
		t.Fatal(err)
	}
	g.want(t, "pinned", a)
	g.Crash()
	g.want(t, "cut again", a)
	c := g.begin()
	g.AckFUA(c, place, 512)
	d := g.begin()
	g.Crash()
	g.want(t, "cut: FUA, then in flight", c, d)
}

// A read may return what was legal when it began, or anything begun while it ran.
func TestOracleReadsTakeTime(t *testing.T) {
	g := newOracleRig(false)
	a := g.begin()
	g.Ack(a, place, 512)
	before := g.Snapshot(place, 512)
	b := g.begin()
	g.Ack(b, place, 512)
	z := g.BeginZeroes(place, 512)
	g.Ack(z, place, 512)
	c := g.begin()
	g.Ack(c, place, 512)
	for _, v := range []uint64{0, a, b, c} {
		if err := g.CheckRead(g.data[v], place, before); err != nil {
			t.Error(err)
		}
	}
	g.want(t, "a new read", c)
}

// The oracle must notice old data after an acknowledgement, data in the wrong place, and garbage.
func TestOracleNotices(t *testing.T) {
	g := newOracleRig(false)
	a := g.begin()
	g.Ack(a, place, 512)
	rotten := slices.Clone(g.data[a])
	rotten[300] ^= 1
	now := g.Snapshot(place, 512)
	for name, buf := range map[string][]byte{"old": g.data[0], "rotten": rotten} {
		if g.CheckRead(buf, place, now) == nil || g.Pin(buf, place) == nil {
			t.Errorf("%s data went unnoticed", name)
		}
	}
	if g.CheckRead(g.data[a], 8192, g.Snapshot(8192, 512)) == nil {
		t.Error("data of another sector went unnoticed")
	}
	if err := g.Pin(g.data[a], place); err != nil {
		t.Error(err)
	}
}
