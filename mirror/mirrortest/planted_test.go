//go:build planted

package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// Each planted bug must be caught by the simulation within 2,000 seeds.
func TestPlantedBugsAreCaught(t *testing.T) {
	defer func() { mirror.Plant = "" }()
	for _, bug := range planted {
		mirror.Plant = bug
		caught := false
		for seed := uint64(0); seed < 2000 && !caught; seed++ {
			p, err := run(seed, mirror.Sync)
			if err != nil {
				t.Logf("%s: %.160s", bug, err.Error())
				caught = true
			}
			if p != nil {
				p.Free()
			}
		}
		if !caught {
			t.Errorf("%s went unnoticed in 2,000 seeds", bug)
		}
	}
}

// Each of these must be caught by the small model, or by a scenario of its own.
func TestPlantedBugsAreCaughtByTheModel(t *testing.T) {
	defer func() { mirror.Plant = "" }()
	for bug, caught := range plantedRare {
		mirror.Plant = bug
		err := caught()
		if err == nil {
			t.Errorf("%s went unnoticed", bug)
			continue
		}
		t.Logf("%s: %.160s", bug, err.Error())
	}
}
