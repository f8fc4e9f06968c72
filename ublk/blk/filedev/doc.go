// Package filedev is a real disk, partition or file as a blk.Device on a ring.
package filedev
