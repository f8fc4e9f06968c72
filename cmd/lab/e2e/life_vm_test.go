//go:build vm

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// 50 add/del cycles leave no device behind, no descriptor in the test, no process.
func TestChurn(t *testing.T) {
	blank(t, dataA, logA)
	fds := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	before, goroutines := fds(), runtime.NumGoroutine()
	devices, err := leftovers() // of tests in which a machine died
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		robib(t, "add", "--name", "c", "--disk", dataA, "--log", logA, "--create-log")
		if i%10 == 0 {
			run(t, "dd", "if=/dev/zero", "of="+stat(t, "c").Device, "bs=4k", "count=16", "oflag=direct")
		}
		robib(t, "del", "c")
	}
	if left, err := leftovers(); err != nil || left != devices {
		t.Errorf("%s, before %s, %v", left, devices, err)
	}
	until(t, "all servers ended", func() bool {
		out, _ := exec.Command("pgrep", "-f", "robib-ublk (server|supervise)").Output()
		return strings.TrimSpace(string(out)) == ""
	})
	if n := fds(); n > before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if n := runtime.NumGoroutine(); n > goroutines+2 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

// Nothing is formatted or overwritten without an explicit word; each refusal is one line with a remedy.
func TestRefusals(t *testing.T) {
	blank(t, dataA, dataB, logA, logB)
	refused(t, 2, "--disk", "add")
	refused(t, 2, "mode", "add", "--disk", dataA, "--mode", "fast")
	refused(t, 2, "", "fly")
	refused(t, 1, "no such volume", "status", "nobody")
	refused(t, 1, "--create-log", "add", "--name", "r", "--disk", dataA, "--log", logA)
	refused(t, 2, "both", "add", "--name", "r", "--disk", dataA, "--log", dataA)
	refused(t, 1, "cannot be reached", "add", "--name", "r", "--disk", dataA, "--log", logA, "--create-log", "--remote", "127.0.0.1:7999")
	run(t, "mkfs.ext4", "-q", "-F", dataB)
	refused(t, 1, "ext4", "serve", "--name", "r", "--disk", dataB, "--log", logB, "--create-log", "--listen", "127.0.0.1:7789")
	blank(t, dataB)
	run(t, "dd", "if=/dev/urandom", "of="+dataB, "bs=4k", "count=1", "seek=10", "oflag=direct")
	refused(t, 1, "not blank", "serve", "--name", "r", "--disk", dataB, "--log", logB, "--create-log", "--listen", "127.0.0.1:7789")
	blank(t, logA) // the add that was refused for want of its peer had made a log there
	robib(t, "add", "--name", "a", "--disk", dataA, "--log", logA, "--create-log")
	refused(t, 1, "in use", "add", "--name", "b", "--disk", dataA, "--log", logB, "--create-log")
	refused(t, 1, "already", "add", "--name", "a")
	robib(t, "stop", "a")
	refused(t, 1, "belongs to volume a", "add", "--name", "b", "--disk", dataA, "--log", logB, "--create-log")
	refused(t, 1, "is the log of volume a", "add", "--name", "b", "--disk", logA, "--log", logB, "--create-log")
	refused(t, 1, "belongs to volume", "add", "--name", "b", "--disk", dataB, "--log", logA, "--create-log")
	robib(t, "add", "--name", "a")
	robib(t, "del", "a")
}

// Writes survive a stop; add brings the volume back, and a disk changed meanwhile is refused.
func TestStopAndAdd(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "v").Device
	run(t, "mkfs.ext4", "-q", "-F", dev)
	run(t, "mount", dev, mnt)
	if err := os.WriteFile(mnt+"/f", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "umount", mnt)
	robib(t, "stop", "v")
	out := robib(t, "log", "check", logA)
	if !strings.Contains(out, "ok") {
		t.Error(out)
	}
	robib(t, "add", "--name", "v")
	run(t, "mount", stat(t, "v").Device, mnt)
	if b, err := os.ReadFile(mnt + "/f"); err != nil || string(b) != "kept" {
		t.Fatal(string(b), err)
	}
	run(t, "umount", mnt)
	robib(t, "stop", "v")
	run(t, "sh", "-c", "echo behind | dd of="+dataA+" bs=512 seek=8 conv=notrunc,sync oflag=direct")
	refused(t, 1, "changed behind", "add", "--name", "v")
	robib(t, "add", "--name", "v", "--accept-disk")
	robib(t, "del", "v")
}

// Supervisor and server both die; recover puts a new server under the device by hand.
func TestRecover(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "v").Device
	ended, wait := background(t, dev, job{"4k", 16, 2})
	pause(ended, 2)
	pid := stat(t, "v").ServerPID
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var parent int
	if _, err := fmt.Sscan(string(b[strings.LastIndexByte(string(b), ')')+2:]), &state, &parent); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{parent, pid} {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	out := robib(t, "recover", "v")
	if !strings.Contains(out, dev) {
		t.Error(out)
	}
	wait()
	robib(t, "del", "v")
}

// A proxy between the two machines sees none of the data that is written.
func TestMarker(t *testing.T) {
	diskA, diskB := smaller(t)
	p := newPairOf(t, "sync", diskA, logA, diskB, logB)
	marker := []byte("the quick brown fox jumps over it")
	p.Link.Watch(marker)
	f, err := os.OpenFile(p.Dev, os.O_WRONLY|syscall.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(strings.Repeat(string(marker), 100)), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if seen, n := p.Link.Seen(); seen || n < 3000 {
		t.Errorf("seen %v in %d bytes", seen, n)
	}
	p.end()
}
