//go:build vm

package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// roleOf waits for a role and state.
func roleOf(t *testing.T, name, role, state string) {
	t.Helper()
	until(t, name+" is a "+role+", "+state, func() bool { s := stat(t, name); return s.Role == role && s.State == state })
}

// events is the log of a volume's state changes.
func events(t *testing.T, name string) string {
	return run(t, "cat", "/var/log/robib-ublk/"+name+".log")
}

// Roles are swapped back and forth under ext4; nothing is copied anew for it.
func TestSwapRoles(t *testing.T) {
	p := newPair(t, "sync")
	run(t, "mkfs.ext4", "-q", p.Dev)
	names := []string{"p", "s"}
	for i := range 4 {
		primary, other := names[i%2], names[(i+1)%2]
		dev := stat(t, primary).Device
		run(t, "mount", dev, "/mnt")
		run(t, "sh", "-c", "dd if=/dev/urandom of=/mnt/"+primary+strings.Repeat("x", i)+" bs=64k count=20 2>/dev/null && sync && md5sum /mnt/[ps]* > /tmp/sums")
		refused(t, 1, "mounted", "demote", primary)
		refused(t, 1, "mounted", "promote", other)
		run(t, "umount", "/mnt")
		if i%2 == 0 { // in two steps, or in one
			robib(t, "demote", primary)
		}
		robib(t, "promote", other)
		roleOf(t, other, "primary", "in sync")
		roleOf(t, primary, "secondary", "following")
		run(t, "mount", stat(t, other).Device, "/mnt")
		run(t, "md5sum", "-c", "/tmp/sums")
		run(t, "umount", "/mnt")
	}
	for _, n := range names {
		log := events(t, n)
		log = log[max(strings.LastIndex(log, "the full sync is complete"), strings.LastIndex(log, "running→complete"), 0):]
		if strings.Contains(log, "up: full sync") || strings.Contains(log, "up: map sync") {
			t.Errorf("%s: roles were swapped by copying everything:\n%s", n, log)
		}
	}
	p.end()
}

// dies kills supervisor and server of a volume, as a power cut of its machine would.
func dies(t *testing.T, name string) {
	t.Helper()
	pid := stat(t, name).ServerPID
	run(t, "sh", "-c", "kill -9 $(awk '/^PPid/{print $2}' /proc/"+itoa(pid)+"/status); kill -9 "+itoa(pid))
	until(t, name+" is dead", func() bool { return syscall.Kill(pid, 0) != nil })
}

// The primary dies, the secondary takes over and is written to; the old primary comes back behind it
// by the log. Then both write alone: it is said on both sides, and only an explicit word ends it.
func TestOldPrimaryReturns(t *testing.T) {
	disk, disk2 := smaller(t)
	p := newPairOn(t, "sync", disk, logA, disk2)
	fio(t, p.Dev, "4k", 8)
	dies(t, "p")
	until(t, "the secondary notices", func() bool { return stat(t, "s").State == "waiting for the primary" })
	robib(t, "promote", "s")
	dev := stat(t, "s").Device
	fio(t, dev, "128k", 8)
	if out, err := exec.Command("robib-ublk", "-j", "status", "p").Output(); err == nil && strings.Contains(string(out), `"in sync"`) {
		t.Errorf("a dead primary says %s", out)
	}
	run(t, "sh", "-c", "rm -f /run/robib-ublk/p.*")
	out, err := try("robib-ublk", "demote", "p")
	if err != nil {
		t.Fatal(out)
	}
	inSync(t, "s")
	log := events(t, "s")
	if log = log[strings.LastIndex(log, "promoted at"):]; strings.Contains(log, "full sync") || !strings.Contains(log, "stream") {
		t.Errorf("the old primary did not come back by the log:\n%s", log)
	}
	// Now both write alone.
	p.Link.Cut()
	until(t, "degraded", func() bool { return stat(t, "s").State == "degraded" })
	robib(t, "pause", "s", "destage") // what its log has given back cannot be kept
	run(t, "dd", "if=/dev/urandom", "of="+dev, "bs=4k", "count=64", "oflag=direct")
	robib(t, "promote", "p")
	run(t, "dd", "if=/dev/urandom", "of="+stat(t, "p").Device, "bs=4k", "count=64", "seek=100", "oflag=direct")
	p.Link.Restore()
	until(t, "one is diverged or fenced", func() bool { s := stat(t, "s").State; return s == "diverged" || s == "fenced" })
	until(t, "p does not go on either", func() bool { s := stat(t, "p").State; return s == "diverged" || s == "degraded" })
	robib(t, "demote", "--force", "s")
	until(t, "diverged", func() bool { return stat(t, "p").State == "diverged" })
	robib(t, "stop", "s")
	robib(t, "serve", "--name", "s", "--discard-my-data")
	robib(t, "stop", "p")
	robib(t, "add", "--name", "p")
	inSync(t, "p")
	// The 64 writes that only s had are listed, with what else its log had beyond the common point, and their data lies in the file.
	kept := robib(t, "log", "kept", "s", "--records")
	if n := strings.Count(kept, "  data  "); n < 64 || strings.Contains(kept, "BAD") {
		t.Errorf("%d writes are kept of what was discarded:\n%s\n%s", n, kept, events(t, "s"))
	}
	robib(t, "resume", "s", "destage")
	p.end()
}
