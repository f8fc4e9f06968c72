package mirror

import "testing"

// The age of what the peer lacks is known within two marks, however long it is away.
func TestLag(t *testing.T) {
	var g lag
	const batch = 7_000_000 // ns; one segment each
	now := int64(1e9)
	for lsn := uint64(1); lsn <= 1_000_000; lsn++ { // almost two hours
		g.note(now, lsn, 0)
		now += batch
		if truth, got := now-1e9, g.nanos(now, 0); got != truth {
			t.Fatalf("segment 1 is %d ns old, not %d", truth, got)
		}
	}
	for _, done := range []uint64{1, 1000, 500_000, 999_000} {
		truth := now - (1e9 + int64(done)*batch) // of the segment after it
		if got := g.nanos(now, done); got > truth || got < truth-2*g.every() {
			t.Errorf("behind %d: %d ns old, %d is told; marks come every %d ns", done, truth, got, g.every())
		}
	}
	if g.every() > int64(1_000_000)*batch/(lagMarks/2) {
		t.Errorf("marks only every %d ns", g.every())
	}
	g.note(now+g.every(), 1_000_001, 999_000) // what the peer has got needs no marks
	if g.marks[0].lsn <= 999_000 {
		t.Errorf("kept a mark at %d", g.marks[0].lsn)
	}
	g.note(now, 1_000_001, 1_000_001)
	if got := g.nanos(now, 1_000_001); got != 0 || g.every() != lagInterval {
		t.Errorf("level, and %d ns behind; marks every %d ns", got, g.every())
	}
	g.note(now, 1_000_002, 1_000_001)
	if got := g.nanos(now+5, 1_000_001); got != 5 {
		t.Errorf("%d ns behind, want 5", got)
	}
}
