//go:build planted

package mirrortest

// planted are the bugs whose feature exists.
var planted = []string{"no-lock", "no-inconsistent", "destage-undeclared", "ack-received", "map-bit-late", "map-bit-lost", "map-no-log", "progress-early"}
