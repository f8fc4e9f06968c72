//go:build vm

package e2e

import (
	"strings"
	"testing"
)

// outOfTheLog makes a pair whose secondary fell out of the primary's log, and is being brought level by a sync
// that is staged there. What it held before is in /tmp/before.
func outOfTheLog(t *testing.T) *pair {
	t.Helper()
	run(t, "sh", "-c", "rm -f /var/log/robib-ublk/p.log /var/log/robib-ublk/s.log") // of the tests before
	diskA, diskB := smaller(t)
	p := newPairOn(t, "sync", diskA, logA, diskB)
	run(t, "dd", "if=/dev/urandom", "of="+p.Dev, "bs=1M", "count=24", "oflag=direct")
	until(t, "level", func() bool { return stat(t, "p").State == "in sync" })
	run(t, "sh", "-c", "dd if="+p.Dev+" bs=1M count=24 iflag=direct 2>/dev/null | md5sum > /tmp/before")
	p.Link.Cut()
	until(t, "degraded", func() bool { return stat(t, "p").State == "degraded" })
	for i := 0; !strings.Contains(events(t, "p"), "→catches up from the dirty map"); i++ {
		if i > 12 {
			t.Fatal("the log is never full")
		}
		run(t, "dd", "if=/dev/urandom", "of="+p.Dev, "bs=256k", "count=80", "oflag=direct")
	}
	robib(t, "set", "p", "rate-limit=1M")
	p.Link.Restore()
	until(t, "it is staged", func() bool {
		a, b := stat(t, "p"), stat(t, "s")
		return a.SyncKind == "staged" && a.Degraded && a.SyncPercent > 0 && b.SyncKind == "staged" && !b.Inconsistent
	})
	t.Log(run(t, "sh", "-c", "robib-ublk status || true"))
	return p
}

// A sync is staged under load, and neither the death of the secondary's server nor a broken link makes the copy a
// mixture: it becomes visible at once, and the disks are equal.
func TestStagedSync(t *testing.T) {
	p := outOfTheLog(t)
	ended, wait := background(t, p.Dev, job{"4k", 8, 1})
	pause(ended, 2)
	kill9(t, "s")
	until(t, "it goes on", func() bool { return strings.Contains(events(t, "p"), "a sync is staged at the peer") })
	p.Link.Cut()
	p.Link.Restore()
	robib(t, "set", "p", "rate-limit=off")
	wait()
	inSync(t, "p")
	if log := events(t, "s"); !strings.Contains(log, "copy staged→consistent") || strings.Contains(log, "→inconsistent") {
		t.Errorf("it did not become visible at once:\n%s", log)
	}
	p.end()
}

// In the middle of such a sync the primary is gone: what was visible is promoted, and written. The old primary's writes
// are given up when it comes back.
func TestPromoteInTheMiddleOfASync(t *testing.T) {
	p := outOfTheLog(t)
	dies(t, "p")
	until(t, "the secondary notices", func() bool { return stat(t, "s").State == "waiting for the primary" })
	run(t, "sh", "-c", "robib-ublk log check "+logB+" | grep 'not visible yet'")
	robib(t, "promote", "s")
	dev := stat(t, "s").Device
	run(t, "sh", "-c", "dd if="+dev+" bs=1M count=24 iflag=direct 2>/dev/null | md5sum -c /tmp/before")
	fio(t, dev, "4k", 8)
	run(t, "sh", "-c", "rm -f /run/robib-ublk/p.*")
	robib(t, "demote", "p")
	until(t, "diverged", func() bool { return stat(t, "s").State == "diverged" })
	robib(t, "stop", "p")
	robib(t, "serve", "--name", "p", "--discard-my-data")
	inSync(t, "s")
	robib(t, "del", "s")
	robib(t, "del", "p")
	same(t, p.disks[0], p.disks[1])
}
