//go:build vm

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The guest's disks, in the order `lab` gives them: two of 512 MiB for data, two of 128 MiB for logs.
const (
	dataA, dataB = "/dev/vdb", "/dev/vdc"
	logA, logB   = "/dev/vdd", "/dev/vde"
)

// bound is how long any one command may take in the emulated machine.
const bound = 2 * time.Minute

// run executes a command and returns its combined output; it fails the test when the command does.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	b, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(b), err
}

// probed attaches the latency probes to what robib adds. Each attachment patches the running kernel's
// code, which an emulator of several CPUs does not always get right (the guest dies of an int3 that was
// taken away already): where probes are not what is tested, there are none.
var probed = false

// withProbes is for the tests of the probes.
func withProbes(t *testing.T) {
	probed = true
	t.Cleanup(func() { probed = false })
}

func robib(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "robib-ublk", unprobed(args)...)
}

// unprobed is a command's arguments, with which it attaches no probes unless they are tested.
func unprobed(args []string) []string {
	if !probed && (args[0] == "add" || args[0] == "serve") {
		return append(args, "--no-latency")
	}
	return args
}

// refused runs a command that must fail with code and say want in one line.
func refused(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	out, err := try("robib-ublk", args...)
	got := 0
	if e, ok := err.(*exec.ExitError); ok {
		got = e.ExitCode()
	}
	if got != code || !strings.Contains(out, want) || strings.Count(strings.TrimSpace(out), "\n") > 0 {
		t.Errorf("robib-ublk %s: exit %d, want %d and one line with %q:\n%s", strings.Join(args, " "), got, code, want, out)
	}
}

// status is what these tests read of `robib-ublk status -j`.
type status struct {
	Role      string `json:"role"`
	State     string `json:"state"`
	Reason    string `json:"reason"`
	Device    string `json:"device"`
	ServerPID int    `json:"server_pid"`
	PeerReads uint64 `json:"peer_reads_total"`
	Control   bool   `json:"control_connected"`
	Latency   string `json:"latency"`

	BacklogBytes int64 `json:"backlog_bytes"`
	CannotKeepUp bool  `json:"cannot_keep_up"`

	Degraded     bool    `json:"degraded"`
	Inconsistent bool    `json:"inconsistent"`
	SyncKind     string  `json:"sync_kind"`
	SyncPercent  float64 `json:"full_sync_percent"`

	ResyncSent    int64 `json:"resync_sent_bytes_total"`
	ResyncSkipped int64 `json:"resync_skipped_bytes_total"`
}

func stat(t *testing.T, name string) (s status) {
	t.Helper()
	out, _ := exec.Command("robib-ublk", "-j", "status", name).Output() // exits 3 or 4 when not well
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("status %s: %v\n%s", name, err, out)
	}
	return s
}

// until polls ok, for as long as anything may take here.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(bound)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if <-tick.C; time.Now().After(end) {
			st, _ := try("robib-ublk", "status")
			logs, _ := try("sh", "-c", "tail -n 25 /var/log/robib-ublk/*.log")
			t.Fatalf("waited %v for: %s\n%s\n%s", bound, what, st, logs)
		}
	}
}

func inSync(t *testing.T, name string) {
	t.Helper()
	until(t, name+" in sync", func() bool { return stat(t, name).State == "in sync" })
}

// pair is a volume "p" with its second copy "s", both in this machine, joined through a link that can be cut.
type pair struct {
	t     *testing.T
	Dev   string
	Link  *Proxy
	disks [2]string // the primary's and the secondary's
}

// newPair makes both halves on blank disks and waits until they are in sync.
// Its disks hold zeros, and nobody compares them.
func newPair(t *testing.T, mode string) *pair {
	t.Helper()
	return newPairOn(t, mode, dataA, logA, dataB)
}

// newSyncedPair is newPair with a full sync of the disks.
func newSyncedPair(t *testing.T, mode string) *pair {
	t.Helper()
	return newPairOf(t, mode, dataA, logA, dataB, logB)
}

// smaller are the first 128 MiB of both data disks, for what compares or copies all of a disk and is not about its size.
func smaller(t *testing.T) (a, b string) {
	t.Helper()
	const sectors = "262144"
	return mapper(t, "smallA", "0 "+sectors+" linear "+dataA+" 0"), mapper(t, "smallB", "0 "+sectors+" linear "+dataB+" 0")
}

// pairing is the token in what serve printed.
func pairing(t *testing.T, out string) string {
	t.Helper()
	for _, w := range strings.Fields(out) {
		if strings.HasPrefix(w, "robib1-") {
			return w
		}
	}
	t.Fatalf("serve printed no pairing token:\n%s", out)
	return ""
}

// mapper makes a device of device mapper.
func mapper(t *testing.T, name, table string) (dev string) {
	t.Helper()
	run(t, "dmsetup", "create", name, "--table", table)
	run(t, "dmsetup", "mknodes", name) // there is no udev here
	t.Cleanup(func() { try("dmsetup", "resume", name); try("dmsetup", "remove", "--retry", name) })
	return "/dev/mapper/" + name
}

// newPairOn is newPair with the primary's disks and the secondary's.
func newPairOn(t *testing.T, mode, disk, log, disk2 string) *pair {
	t.Helper()
	return newPairOf(t, mode, disk, log, disk2, logB, "--assume-clean")
}

// newPairOf is newSyncedPair with the disks of both and more words for add.
func newPairOf(t *testing.T, mode, disk, log, disk2, log2 string, more ...string) *pair {
	t.Helper()
	blank(t, disk, disk2, log, log2)
	out := robib(t, "serve", "--name", "s", "--disk", disk2, "--log", log2, "--create-log", "--listen", "127.0.0.1:7789")
	token := pairing(t, out)
	l, err := NewProxy("127.0.0.1:7790", "127.0.0.1:7789")
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, Link: l, disks: [2]string{disk, disk2}}
	t.Cleanup(func() { l.Close() })
	out = robib(t, append([]string{"add", "--name", "p", "--disk", disk, "--log", log, "--create-log", "--remote", "127.0.0.1:7790", "--pair", token, "--mode", mode}, more...)...)
	t.Log(out)
	p.Dev = stat(t, "p").Device
	inSync(t, "p")
	return p
}

// end deletes both halves and compares the two data disks byte by byte.
func (p *pair) end() {
	p.t.Helper()
	inSync(p.t, "p")
	robib(p.t, "del", "p")
	robib(p.t, "del", "s")
	same(p.t, p.disks[0], p.disks[1])
}

// kill9 kills the server of volume name and waits until another one answers.
func kill9(t *testing.T, name string) {
	t.Helper()
	pid := stat(t, name).ServerPID
	if pid <= 1 {
		t.Fatalf("server pid %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "a new server under "+name, func() bool {
		var s status
		out, _ := exec.Command("robib-ublk", "-j", "status", name).Output()
		return json.Unmarshal(out, &s) == nil && s.ServerPID > 1 && s.ServerPID != pid
	})
}

// blank fills disks with zeros; the virtual ones do that by punching holes.
func blank(t *testing.T, disks ...string) {
	t.Helper()
	for _, d := range disks {
		n, err := strconv.ParseUint(strings.TrimSpace(run(t, "blockdev", "--getsize64", d)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		rangeIoctl(t, d, blkZeroOut, 0, n)
	}
}

// same compares two disks byte by byte, past the page cache.
func same(t *testing.T, a, b string) {
	t.Helper()
	run(t, "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
	x, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(p)) {
		n, e1 := io.ReadFull(x, p)
		m, e2 := io.ReadFull(y, q)
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			for i := range min(n, m) {
				if p[i] != q[i] {
					t.Fatalf("%s and %s differ at byte %d (sector %d)", a, b, off+int64(i), (off+int64(i))/512)
				}
			}
			t.Fatalf("%s and %s differ in size: %d and %d", a, b, off+int64(n), off+int64(m))
		}
		if e1 != nil || e2 != nil {
			return
		}
	}
}

// contents is a sum of all that a device holds.
func contents(t *testing.T, dev string) uint32 {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run(t, "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum32()
}

// fio runs a verifying random write job over size MiB of dev.
func fio(t *testing.T, dev, bs string, sizeMiB int, more ...string) {
	t.Helper()
	run(t, "fio", fioArgs(dev, bs, sizeMiB, more...)...)
}

func fioArgs(dev, bs string, sizeMiB int, more ...string) []string {
	a := []string{"--name=v", "--filename=" + dev, "--rw=randwrite", "--ioengine=libaio", "--direct=1", "--iodepth=32",
		"--verify=crc32c", "--verify_state_save=0", "--do_verify=1", "--verify_fatal=1", "--size=" + strconv.Itoa(sizeMiB) + "m"}
	if strings.Contains(bs, "-") {
		a = append(a, "--bsrange="+bs, "--serialize_overlap=1")
	} else {
		a = append(a, "--bs="+bs)
	}
	return append(a, more...)
}

// fds counts this process's descriptors; pids of ours left running would hold some too.
func leftovers() (string, error) {
	m, err := filepath.Glob("/dev/ublk[bc]*")
	if err != nil || len(m) == 0 {
		return "", err
	}
	return fmt.Sprint(m), nil
}

func itoa(n int) string { return strconv.Itoa(n) }
