//go:build planted

package seglog

import "testing"

// Each planted bug must be caught by the power-cut simulation within 2,000 seeds.
func TestPlantedBugsAreCaught(t *testing.T) {
	for _, bug := range []string{"ack-early", "super-early", "apply-stale", "reuse-undestaged", "ram-early", "ram-late"} {
		Plant = bug
		caught := -1
		for seed := range uint64(2000) {
			if _, _, err := runSim(seed); err != nil {
				t.Logf("%s: seed %d: %v", bug, seed, err)
				caught = int(seed)
				break
			}
		}
		if caught < 0 {
			t.Errorf("%s went unnoticed", bug)
		}
	}
	Plant = "reuse-early"
	if !overwrites(t) {
		t.Error("reuse-early went unnoticed")
	}
	Plant = "stage-reused"
	if err := stageIsHeld(t); err == nil {
		t.Error("stage-reused went unnoticed")
	}
	Plant = "merge-not-erased"
	caught := false
	for left := range 1 << mergedTogether {
		caught = caught || goneOn(t, left, true) != nil
	}
	if !caught {
		t.Error("merge-not-erased went unnoticed")
	}
	Plant = "skip-chain"
	p := tornPair(t)
	if err := p.open(); err != nil {
		t.Fatal(err)
	}
	p.fill(t, 1)
	if err := p.open(); err == nil {
		t.Error("skip-chain: a segment that was cut came back, and nobody noticed")
	}
	// Forgotten durable-through turns corruption into a torn tail.
	Plant = "declare-zero"
	defer func() { Plant = "" }()
	s, err := newSim(1)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 5)
	g, _ := s.l.Lookup(2)
	b := append([]byte(nil), s.dev.Bytes()...)
	b[s.l.DeviceOffset(g.Pos)+600] ^= 4
	s.dev.Restore(b)
	if err := s.open(); err == nil {
		t.Error("declare-zero: five durable segments became two, and nobody noticed")
	}
}
