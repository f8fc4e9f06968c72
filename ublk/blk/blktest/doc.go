// Package blktest fakes what blk describes: a seeded world of time and disks that lose power, fail,
// hang and lie, an oracle that knows what every sector may hold, and the contract tests of every Device.
package blktest
