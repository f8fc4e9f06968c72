package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Every test of a guest runs on one kernel at least, in one batch.
func TestEveryGuestTestHasABatch(t *testing.T) {
	files, err := filepath.Glob("e2e/*_vm_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	kernels := [2]string{"6.12.1", "7.3.4"}
	name := regexp.MustCompile(`(?m)^func (Test\w+)`)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllSubmatch(b, -1) {
			n := [2]int{}
			for i, k := range kernels {
				for _, b := range vmBatches {
					if b.pkg == "./cmd/lab/e2e" && regexp.MustCompile(b.run(k)).Match(m[1]) {
						n[i]++
					}
				}
			}
			if n[0]+n[1] == 0 || n[0] > 1 || n[1] > 1 {
				t.Errorf("%s of %s is in %v batches of %v", m[1], f, n, kernels)
			}
		}
	}
}
