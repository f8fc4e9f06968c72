//go:build race

package blktest

// Raced reports that the race detector is on. Simulations are one goroutine and take eight times as long
// under it: they live few histories then, and all of them without it.
const Raced = true
