//go:build planted

package mirrortest

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// Each planted bug must be caught by the simulation within 2,000 seeds.
func TestPlantedBugsAreCaught(t *testing.T) {
	defer func() { mirror.Plant, dcd.Plant, seglog.Plant = "", "", "" }()
	for _, bug := range planted {
		t.Run(bug, func(t *testing.T) {
			mirror.Plant, dcd.Plant, seglog.Plant = "", "", ""
			mode := mirror.Sync
			switch layer, below, _ := strings.Cut(bug, ":"); layer {
			case "dcd":
				dcd.Plant = below
			case "log":
				seglog.Plant, mode = below, mirror.Async
			default:
				mirror.Plant = bug
			}
			for seed := range uint64(2000) {
				p, err := run(seed, mode, bug == "swap-early")
				if p != nil {
					p.Free()
				}
				if err != nil {
					t.Logf("%.160s", err.Error())
					return
				}
			}
			t.Error("it went unnoticed in 2,000 seeds")
		})
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
