//go:build vm

package e2e

import (
	"os"
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
		fio(t, dev, bs, 4, where...)
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
		fio(t, dev, bs, 4, append(where, "--verify_only")...)
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

// The old primary dies in the middle of a swap, and the new one: who is asked again has the role in the end.
func TestSwapUnderKills(t *testing.T) {
	p := newPair(t, "sync")
	fio(t, p.Dev, "4k", 4)
	for _, victim := range []string{"p", "s"} {
		done := make(chan string, 1)
		pid := stat(t, victim).ServerPID
		go func() {
			out, err := try("robib-ublk", "promote", "s", "--timeout", "10s")
			if err != nil {
				out = "refused: " + out
			}
			done <- out
		}()
		run(t, "kill", "-9", itoa(pid))
		out := <-done
		t.Logf("%s killed: %s", victim, out)
		one := func() (primary string) {
			for _, n := range []string{"p", "s"} {
				if out, err := try("robib-ublk", "-j", "status", n); err == nil || strings.Contains(out, `"role"`) {
					if s := stat(t, n); s.Role == "primary" && s.Device != "" {
						primary += n
					}
				}
			}
			return primary
		}
		settled := ""
		until(t, "both answer, and one at most is the primary", func() bool {
			_, err := try("robib-ublk", "-j", "status", victim)
			settled = one()
			return settled != "ps" && (err == nil || settled != "")
		})
		if settled == "" {
			robib(t, "promote", "s")
			settled = "s"
		}
		inSync(t, settled)
		fio(t, stat(t, settled).Device, "4k", 4, "--verify_only")
		if settled == "s" {
			robib(t, "promote", "p")
			inSync(t, "p")
		}
	}
	p.end()
}
