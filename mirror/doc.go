// Package mirror is one machine's half of a volume: it keeps a second machine a write-order prefix of this one.
//
// A Node stands beside the cache, on its log: it ships segments as they are sealed, and moves the
// two numbers in the cache, the newest LSN that may be acknowledged and the newest that may be
// destaged. It is in no request's way. It starts no goroutine and reads no clock, so the same
// code runs on real rings and under a seeded simulator.
package mirror
