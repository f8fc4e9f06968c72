//go:build !race

package blktest

const Raced = false
