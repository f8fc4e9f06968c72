package mirrortest

import (
	"slices"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// The wall clock jumps by years, forth and back, all the time: every history goes as it goes without that.
func TestClockJumps(t *testing.T) {
	const year = 365 * 24 * 3600 * 1_000_000_000
	jump := func(p *Pair) {
		if p.W.Steps%61 == 0 {
			p.W.Skew += int64(p.W.Steps%7-3) * 5 * year / 3
		}
	}
	defer func() { each = nil }()
	for _, mode := range []mirror.Mode{mirror.Sync, mirror.SemiSync, mirror.Async} {
		for seed := range uint64(blktest.Seeds(t, 8)) {
			each = nil
			p, err := run(seed, mode, false)
			if err != nil {
				t.Fatal(err)
			}
			each = jump
			q, err := run(seed, mode, false)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Events, q.Events) || p.W.Now != q.W.Now || p.W.Steps != q.W.Steps {
				t.Errorf("%v, seed %d: another history when the clock jumps", mode, seed)
			}
			p.Free()
			q.Free()
		}
	}
}
