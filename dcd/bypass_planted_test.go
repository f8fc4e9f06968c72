//go:build planted

package dcd

import "testing"

// The order of disk, record and acknowledgement, and that destage rests meanwhile, are what the
// bypass is about: each broken must be noticed.
func TestPlantedBypassBugsAreCaught(t *testing.T) {
	defer func() { Plant = "" }()
	for _, bug := range []string{"bypass-record-first", "bypass-destage-goes-on", "bypass-keeps-map", "bypass-no-fua"} {
		Plant = bug
		caught := false
		for seed := uint64(0); seed < 2000 && !caught; seed++ {
			if _, err := runSimWith(seed, variant{bypass: true}); err != nil {
				t.Logf("%s: %v", bug, err)
				caught = true
			}
		}
		if !caught {
			t.Errorf("%s went unnoticed in 2,000 seeds", bug)
		}
	}
}
