//go:build vm

package e2e

import (
	"os/exec"
	"testing"
)

// fio verifies every block it wrote, at each block size and mixed, on a mirrored volume.
func TestFio(t *testing.T) {
	p := newPair(t, "sync")
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

// background runs fio and returns what waits for its verdict.
func background(t *testing.T, dev, bs string, sizeMiB int, more ...string) (ended chan struct{}, wait func()) {
	t.Helper()
	cmd := exec.Command("fio", fioArgs(dev, bs, sizeMiB, more...)...)
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
	ended, wait := background(t, p.Dev, "512-128k", 128, "--rate=,4m")
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
	ended, wait := background(t, p.Dev, "4k", 32, "--rate=,2m")
	pause(ended, 3)
	kill9(t, "s")
	wait()
	p.end()
}

// The link is cut and comes back under fio: I/O goes on, the volume says degraded, then in sync.
func TestFioLinkCut(t *testing.T) {
	p := newPair(t, "sync")
	ended, wait := background(t, p.Dev, "4k", 64, "--rate=,3m")
	pause(ended, 2)
	p.Link.Cut()
	until(t, "degraded", func() bool { return stat(t, "p").State == "degraded" })
	pause(ended, 3)
	p.Link.Restore()
	wait()
	p.end()
}
