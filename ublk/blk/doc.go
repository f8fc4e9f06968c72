// Package blk is the block vocabulary: what a request is and what a device owes it.
//
// One loop owns a stack of devices. Requests go down in Submit and come back in Complete;
// Kick ends each batch. Nothing here blocks, locks, starts a goroutine or reads a clock, so
// an io_uring loop and a seeded simulator drive the very same code.
package blk
