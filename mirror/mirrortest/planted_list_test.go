//go:build planted

package mirrortest

// planted are the bugs whose feature exists.
var planted = []string{"no-lock", "no-inconsistent", "destage-undeclared", "ack-received", "release-received"}
