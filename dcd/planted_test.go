//go:build planted

package dcd

import (
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
)

// Each planted bug must be caught by the simulation within 2,000 seeds.
func TestPlantedBugsAreCaught(t *testing.T) {
	for _, bug := range []string{"ack-early", "skip-flush", "clear-newer", "destage-beyond", "skip-superseded", "forget-mask", "zero-keeps-map", "zero-drop-early", "zero-forget-limit", "log:ack-early", "log:reuse-early", "log:apply-stale", "log:reuse-undestaged", "log:ram-late"} {
		Plant, seglog.Plant = bug, ""
		if rest, ok := cutPrefix(bug, "log:"); ok {
			Plant, seglog.Plant = "", rest
		}
		caught := false
		for seed := range uint64(2000) {
			if _, err := runSim(seed); err != nil {
				t.Logf("%s: %v", bug, err)
				caught = true
				break
			}
		}
		if !caught {
			t.Errorf("%s went unnoticed in 2,000 seeds", bug)
		}
	}
	Plant, seglog.Plant = "", ""
}

func cutPrefix(s, p string) (string, bool) {
	if len(s) > len(p) && s[:len(p)] == p {
		return s[len(p):], true
	}
	return s, false
}
