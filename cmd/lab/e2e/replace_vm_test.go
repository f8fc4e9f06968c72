//go:build vm

package e2e

import (
	"os"
	"testing"
)

// spare makes a file, on the one file system here that lies on a disk, which stands for a disk that is put in later.
func spare(t *testing.T, mib int) string {
	t.Helper()
	f, err := os.CreateTemp("/var/lib/robib-ublk", "spare")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(mib) << 20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	return f.Name()
}

// failing is disk behind a layer that fail turns into one where every request fails.
func failing(t *testing.T, name, disk string) (dev string, fail func()) {
	t.Helper()
	m := newMapped(t, name, disk)
	return m.path(), func() { m.table("error") }
}

// dying fails a disk of the pair's primary under fio, and gives what waits for fio.
func (p *pair) dying(fail func()) (wait func()) {
	p.t.Helper()
	ended, wait := background(p.t, p.Dev, job{"4k", 32, 2})
	pause(ended, 2)
	fail()
	until(p.t, "remote", func() bool { return stat(p.t, "p").State == "remote" })
	return wait
}

// The data disk dies under fio, another one takes its place, and the server is killed while that is
// filled: fio notices nothing, and in the end both copies are equal.
func TestReplaceDisk(t *testing.T) {
	under, disk2 := smaller(t)
	disk, fail := failing(t, "data", under)
	p := newPairOn(t, "sync", disk, logA, disk2)
	wait := p.dying(fail)
	other := spare(t, 128)
	robib(t, "replace-disk", "p", "--disk", other)
	kill9(t, "p")
	wait()
	inSync(t, "p")
	robib(t, "del", "p")
	robib(t, "del", "s")
	same(t, other, disk2)
}

// The log dies under fio, and another one takes its place under the same block device.
func TestReplaceLog(t *testing.T) {
	disk, disk2 := smaller(t)
	log, fail := failing(t, "log", logA)
	p := newPairOn(t, "sync", disk, log, disk2)
	wait := p.dying(fail)
	robib(t, "replace-log", "p", "--log", spare(t, 128), "--create-log")
	wait()
	until(t, "in sync or remote for want of a disk", func() bool { s := stat(t, "p").State; return s == "in sync" || s == "remote" })
	if stat(t, "p").State == "remote" {
		robib(t, "replace-disk", "p", "--disk", disk, "--overwrite")
	}
	p.end()
}
