//go:build planted

package mirrortest

// planted are the bugs whose feature exists. A segment that is given up when the peer has only
// received it is none of them: a peer that then lacks it is noticed at the next connect, and gets what
// the map says, or everything.
var planted = []string{"no-lock", "no-inconsistent", "destage-undeclared", "ack-received", "map-bit-lost", "map-no-log", "progress-early",
	"refill-no-limit", "refill-early", "refill-said-early", "hash-under-log", "hash-other-place", "asked-is-done"}
