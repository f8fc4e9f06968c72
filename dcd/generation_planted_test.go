//go:build planted

package dcd

import "testing"

// A generation is the old copy or the new one: each way to a mixture must be noticed.
func TestPlantedGenerationBugsAreCaught(t *testing.T) {
	defer func() { Plant = "" }()
	for _, bug := range []string{"gen-destages", "gen-no-flush", "gen-reads-through"} {
		Plant = bug
		err := generations(3)
		if err == nil {
			t.Errorf("%s went unnoticed", bug)
			continue
		}
		t.Logf("%s: %v", bug, err)
	}
}
