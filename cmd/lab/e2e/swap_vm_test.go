//go:build vm

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// swaps is how often roles change in TestSwapTwentyTimes.
const swaps = 20

// Roles are swapped twenty times by one command each, with fio verifying on whichever side is the primary
// what it wrote on the other one, and ext4 mounted in some. Nothing is copied anew for it, and at the end the
// two disks are equal.
func TestSwapTwentyTimes(t *testing.T) {
	p := newPair(t, "sync")
	names := []string{"p", "s"}
	dev := p.Dev
	run(t, "mkfs.ext4", "-q", dev, "100M")
	for i := range swaps {
		primary, other := names[i%2], names[(i+1)%2]
		bs := []string{"4k", "512-128k"}[i%2]
		where := []string{"--offset=" + itoa(128+i%4*8) + "m", "--randseed=" + itoa(i+1)} // each time other bytes
		fio(t, dev, bs, 2, where...)
		if i%3 == 0 {
			run(t, "mount", dev, mnt)
			run(t, "sh", "-c", "dd if=/dev/urandom of="+mnt+"/f"+itoa(i)+" bs=64k count=10 2>/dev/null && sync && md5sum "+mnt+"/f* > /tmp/sums")
			refused(t, 1, "mounted on "+mnt, "promote", other)
			run(t, "umount", mnt)
		}
		if i == 1 {
			f, err := os.Open(dev)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, 1, dev+" is open in ", "promote", other)
			f.Close()
		}
		if out := robib(t, "promote", other); !strings.Contains(out, "nothing is lost") {
			t.Error(out)
		}
		dev = stat(t, other).Device
		fio(t, dev, bs, 2, append(where, "--verify_only")...)
		if i%3 == 0 {
			run(t, "mount", dev, mnt)
			run(t, "md5sum", "-c", "/tmp/sums")
			run(t, "umount", mnt)
		}
		roleOf(t, other, "primary", "in sync")
		roleOf(t, primary, "secondary", "following")
	}
	for _, n := range names {
		log := events(t, n)
		log = log[max(strings.LastIndex(log, "the full sync is complete"), strings.LastIndex(log, "running→complete"), 0):]
		if strings.Contains(log, "up: full sync") || strings.Contains(log, "up: map sync") || strings.Contains(log, "died") {
			t.Errorf("%s: roles were swapped by copying everything, or servers died:\n%s", n, log)
		}
	}
	p.end()
}

// settled gives which of the two is the primary, once the other one is none and it has its device; and
// whether neither is, so that promote makes one.
func settled(t *testing.T) (which string, neither bool) {
	t.Helper()
	roles := map[string]int{}
	for _, n := range []string{"p", "s"} {
		var s status
		out, _ := exec.Command("robib-ublk", "-j", "status", n).Output()
		if json.Unmarshal(out, &s) != nil {
			return "", false // its server is starting
		}
		if roles[s.Role]++; s.Role == "primary" && s.Device != "" {
			which = n
		}
	}
	if roles["primary"] > 1 {
		t.Fatal("both are primaries")
	}
	return which, roles["secondary"] == 2
}

// A server dies in the middle of a swap, the old primary's or the new one's: one of them at most is the
// primary afterwards, and where neither is, promote makes it.
func TestSwapUnderKills(t *testing.T) {
	p := newPair(t, "sync")
	fio(t, p.Dev, "4k", 4)
	for i, victim := range []string{"p", "s", "p", "s"} {
		const asks = "asks for the primary's role"
		done, before := make(chan string, 1), strings.Count(events(t, "s"), asks)
		pid := stat(t, victim).ServerPID
		go func() {
			out, err := try("robib-ublk", "promote", "s", "--timeout", "10s")
			done <- fmt.Sprint(out, err)
		}()
		until(t, "it is asked", func() bool { return strings.Count(events(t, "s"), asks) > before })
		run(t, "sleep", fmt.Sprint(float64(i/2)*0.5))
		try("kill", "-9", itoa(pid)) // it may have ended already
		t.Logf("%s killed: %s", victim, <-done)
		which := ""
		until(t, "one is the primary", func() bool {
			neither := false
			if which, neither = settled(t); neither {
				try("robib-ublk", "promote", "s", "--timeout", "10s")
			}
			return which != ""
		})
		inSync(t, which)
		fio(t, stat(t, which).Device, "4k", 4, "--verify_only")
		if which == "s" {
			robib(t, "promote", "p")
			roleOf(t, "p", "primary", "in sync")
		}
	}
	p.end()
}
