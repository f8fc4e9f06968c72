//go:build !race

package mirrortest

const raced = false
