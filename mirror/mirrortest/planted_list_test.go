//go:build planted

package mirrortest

// planted are the bugs whose feature exists. A segment that is given up when the peer has only
// received it is none of them: a peer that then lacks it is noticed at the next connect, and gets what
// the map says, or everything.
var planted = []string{"no-inconsistent", "destage-undeclared", "ack-received", "map-bit-lost", "map-no-log", "progress-early",
	"refill-no-limit", "refill-early", "refill-said-early", "swap-early", "hash-under-log", "hash-other-place", "asked-is-done",
	"gen-visible-early", "gen-frees-unmapped", "dcd:gen-destages", "log:merge-unsaid"}

// plantedRare are bugs that no seed may come across, and who finds them.
var plantedRare = map[string]func() error{
	"no-lock":          slowReadDuringResync,
	"session-durable":  newSessionSlowLog,
	"refill-unlogged":  refillAheadOfTheLogs,
	"waiting-destages": modelFinds,
	"demoted-destages": cutTail,
	"unmarked-alone":   aloneWithSlowMark,
	"clear-early":      modelFinds,
	"start-unasked":    modelFinds,
	"forget-ahead":     modelFinds,
	"reattach-late":    reattachLate,
}

// modelFinds gives the first history that goes wrong.
func modelFinds() error {
	for _, c := range modelCases {
		if err := newExplorer(c.mode, c.slow, c.more).explore(nil, 2, modelEvery); err != nil {
			return err
		}
	}
	return nil
}
