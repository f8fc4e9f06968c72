//go:build planted

package mirrortest

// planted are the bugs whose feature exists. A segment that is given up when the peer has only
// received it is none of them: a peer that then lacks it is noticed at the next connect, and gets what
// the map says, or everything.
var planted = []string{"no-lock", "no-inconsistent", "destage-undeclared", "ack-received", "map-bit-lost", "map-no-log", "progress-early",
	"refill-no-limit", "refill-early", "refill-said-early", "session-durable", "swap-early", "hash-under-log", "hash-other-place", "asked-is-done"}

// plantedRare are bugs that no seed may come across, and who finds them.
var plantedRare = map[string]func() error{
	"refill-unlogged":  refillAheadOfTheLogs,
	"waiting-destages": modelFinds,
	"demoted-destages": modelFinds,
	"unmarked-alone":   modelFinds,
	"clear-early":      modelFinds,
	"start-unasked":    modelFinds,
	"forget-ahead":     modelFinds,
}
