// Package filedev is a real disk, partition or file as a blk.Device on a ring.
//
// It also knows what must be known before one is used: what the kernel says of it, whether
// somebody else has it, and what lies on it.
package filedev
