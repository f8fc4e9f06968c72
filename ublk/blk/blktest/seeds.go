package blktest

import (
	"os"
	"strconv"
	"testing"
)

// Seeds is how many seeds a simulation runs: n, or a twelfth under the race detector, or what ROBIB_SEEDS
// says, for the long mode.
func Seeds(t testing.TB, n int) int {
	v := os.Getenv("ROBIB_SEEDS")
	if v == "" {
		if Raced {
			n = (n + 11) / 12
		}
		return n
	}
	k, err := strconv.Atoi(v)
	if err != nil || k < 1 {
		t.Fatalf("ROBIB_SEEDS=%q is not a number of seeds", v)
	}
	return k
}
