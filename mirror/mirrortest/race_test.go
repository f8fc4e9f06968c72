//go:build race

package mirrortest

// raced reports that the race detector is on.
const raced = true
