//go:build vm

package e2e

import (
	"fmt"
	"os/exec"
	"testing"
)

// fio verifies every block it wrote, at each block size and mixed, on a mirrored volume.
func TestFio(t *testing.T) {
	p := newSyncedPair(t, "sync")
	fio(t, p.Dev, "512", 16)
	fio(t, p.Dev, "4k", 48)
	fio(t, p.Dev, "128k", 48)
	fio(t, p.Dev, "512-128k", 32)
	p.end()
}

func TestFioAsync(t *testing.T) {
	p := newPair(t, "async")
	fio(t, p.Dev, "4k", 32)
	fio(t, p.Dev, "512-128k", 32)
	p.end()
}

// job is one part of a fio run: a block size on a range of its own.
type job struct {
	bs      string
	sizeMiB int
	rateMiB int // write rate, so that the disturbances fall into it
}

// background runs all jobs in one fio, side by side, and returns what waits for its verdict.
func background(t *testing.T, dev string, jobs ...job) (ended chan struct{}, wait func()) {
	t.Helper()
	args, at := []string{"--group_reporting=0"}, 0
	for _, j := range jobs {
		args = append(args, fioArgs(dev, j.bs, j.sizeMiB, fmt.Sprintf("--offset=%dm", at), fmt.Sprintf("--rate=,%dm", j.rateMiB))...)
		at += j.sizeMiB
	}
	cmd := exec.Command("fio", args...)
	var out []byte
	var err error
	ended = make(chan struct{})
	go func() {
		out, err = cmd.CombinedOutput()
		close(ended)
	}()
	return ended, func() {
		t.Helper()
		<-ended
		if err != nil {
			t.Fatalf("fio: %v\n%s", err, out)
		}
	}
}

// Three servers die under fio; nothing is typed, and fio must not notice.
func TestFioKills(t *testing.T) {
	p := newPair(t, "sync")
	ended, wait := background(t, p.Dev, job{"512", 16, 1}, job{"4k", 32, 2}, job{"128k", 48, 3}, job{"512-128k", 32, 2})
	for range 3 {
		pause(ended, 4)
		kill9(t, "p")
	}
	wait()
	if n := stat(t, "p").ServerPID; n <= 1 {
		t.Fatal("no server")
	}
	p.end()
}

// The second copy's server dies under fio; it comes back and is brought level.
func TestSecondaryKilled(t *testing.T) {
	p := newPair(t, "sync")
	ended, wait := background(t, p.Dev, job{"4k", 32, 2})
	pause(ended, 3)
	kill9(t, "s")
	wait()
	p.end()
}

// The link is cut and comes back under fio: I/O goes on, the volume says degraded, then in sync.
func TestFioLinkCut(t *testing.T) {
	p := newSyncedPair(t, "sync")
	ended, wait := background(t, p.Dev, job{"512", 16, 1}, job{"4k", 16, 1}, job{"128k", 16, 1}, job{"512-128k", 16, 1})
	pause(ended, 2)
	p.Link.Cut()
	until(t, "degraded", func() bool { return stat(t, "p").State == "degraded" })
	pause(ended, 3)
	p.Link.Restore()
	wait()
	p.end()
}
