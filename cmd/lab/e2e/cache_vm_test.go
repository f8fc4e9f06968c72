//go:build vm

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// cacheStatus is what these tests read of the cache.
type cacheStatus struct {
	Discards  uint64 `json:"discards_total"`
	Zeroed    uint64 `json:"zeroed_bytes_total"`
	LogBytes  int64  `json:"log_bytes"`
	LogUsed   int64  `json:"log_used_bytes"`
	Dirty     int64  `json:"dirty_bytes"`
	Sealed    uint64 `json:"sealed_lsn"`
	Mode      string `json:"mode"`
	HighWater int    `json:"high_water_percent"`
	Ordered   bool   `json:"ordered"`
	LogRead   uint64 `json:"log_read_bytes_total"`
}

func cacheOf(t *testing.T, name string) (s cacheStatus) {
	t.Helper()
	out, _ := exec.Command("robib-ublk", "-j", "status", name).Output()
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// Destage on demand, the offline tools, and a volume whose server dies with writes in the log.
func TestLogTools(t *testing.T) {
	blank(t, dataA, logA)
	refused(t, 2, "--log-size", "add", "--name", "v", "--disk", dataA, "--log", logA, "--log-size", "4096", "--create-log")
	refused(t, 2, "watermarks", "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log", "--low-water", "90", "--high-water", "60")
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--log-size", "64", "--ram", "16", "--create-log")
	dev := stat(t, "v").Device
	if b, err := os.ReadFile("/sys/block/" + strings.TrimPrefix(dev, "/dev/") + "/queue/scheduler"); err != nil || !strings.Contains(string(b), "[none]") {
		t.Errorf("scheduler %q %v", b, err)
	}
	if s := cacheOf(t, "v"); s.LogBytes != 64<<20 {
		t.Errorf("the log has %d bytes", s.LogBytes)
	}
	refused(t, 2, "no setting", "set", "v", "speed=9")
	refused(t, 2, "high-water", "set", "v", "high-water=200")
	robib(t, "set", "v", "high-water=70", "ordered=yes")
	if s := cacheOf(t, "v"); s.HighWater != 70 || !s.Ordered {
		t.Errorf("%+v", s)
	}
	robib(t, "set", "v", "ordered=no")
	fio(t, dev, "4k", 8)
	out := robib(t, "destage", "v")
	if s := cacheOf(t, "v"); s.Dirty != 0 || !strings.Contains(out, "holds everything") {
		t.Errorf("%d bytes dirty after: %s", s.Dirty, out)
	}
	fio(t, dev, "128k", 16)
	robib(t, "stop", "v")
	out = robib(t, "log", "check", logA)
	if !strings.Contains(out, "ok") {
		t.Error(out)
	}
	dump := robib(t, "-j", "log", "dump", "--records", logA)
	var first struct {
		LSN     uint64 `json:"lsn"`
		Records int    `json:"records"`
	}
	line, _, _ := strings.Cut(dump, "\n")
	if dump != "" && (json.Unmarshal([]byte(line), &first) != nil || first.LSN == 0) {
		t.Errorf("log dump: %.300s", line)
	}
	before := sum(t, dataA)
	out = robib(t, "log", "rescue", logA, "--disk", dataA)
	if sum(t, dataA) != before || !strings.Contains(out, "nothing was changed") {
		t.Errorf("a dry rescue: %s", out)
	}
	out = robib(t, "log", "rescue", logA, "--disk", dataA, "--write")
	if !strings.Contains(out, "nothing is lost") {
		t.Error(out)
	}
	refused(t, 1, "belongs to disk", "log", "rescue", logA, "--disk", dataB)
	robib(t, "add", "--name", "v")
	run(t, "cmp", "-n", "16777216", dev, dataA)
	robib(t, "del", "v")
}

const blkZeroOut = 0x127f // linux/fs.h

// rangeIoctl gives such a request for n bytes of dev from off on.
func rangeIoctl(t *testing.T, dev string, req uintptr, off, n uint64) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := [2]uint64{off, n}
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), req, uintptr(unsafe.Pointer(&r))); e != 0 {
		t.Fatalf("ioctl %#x on %s [%d, +%d): %v", req, dev, off, n, e)
	}
}

// Zeroed ranges read as zeros at once and on both disks afterwards; what is written later stays.
// The mode is changed meanwhile.
func TestZeroing(t *testing.T) {
	disk, disk2 := smaller(t)
	p := newPairOn(t, "sync", disk, logA, disk2)
	fio(t, p.Dev, "4k", 16)
	run(t, "dd", "if=/dev/urandom", "of="+p.Dev, "bs=1M", "count=64", "oflag=direct")
	before := cacheOf(t, "p")
	rangeIoctl(t, p.Dev, blkZeroOut, 8<<20, 40<<20)
	run(t, "dd", "if=/dev/urandom", "of="+p.Dev, "bs=4k", "seek=4096", "count=64", "oflag=direct")
	run(t, "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
	allZero(t, p.Dev, 8<<20, 8<<20)
	allZero(t, p.Dev, 16<<20+256<<10, 32<<20-256<<10)
	robib(t, "set", "p", "mode=async")
	until(t, "async", func() bool { return cacheOf(t, "p").Mode == "async" })
	fio(t, p.Dev, "512-128k", 8)
	robib(t, "set", "p", "mode=semisync")
	fio(t, p.Dev, "4k", 8)
	robib(t, "set", "p", "mode=sync")
	until(t, "sync", func() bool { return cacheOf(t, "p").Mode == "sync" })
	inSync(t, "p")
	robib(t, "destage", "p")
	if s := cacheOf(t, "p"); s.Zeroed < 40<<20 || before.Zeroed >= 40<<20 {
		t.Errorf("%d bytes zeroed on the disk, %d before", s.Zeroed, before.Zeroed)
	}
	was := contents(t, p.Dev)
	p.end()
	if contents(t, disk) != was {
		t.Error("the disk alone is not what the volume was")
	}
}

// allZero checks that n bytes of dev from off on are zeros.
func allZero(t *testing.T, dev string, off, n int64) {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	for i, v := range b {
		if v != 0 {
			t.Fatalf("byte %d of %s is %#x, and should be zero", off+int64(i), dev, v)
		}
	}
}

// A volatile cache keeps what was acknowledged through killed servers; without its memory nothing is served.
func TestWriteCache(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log", "--ram", "16", "--write-cache")
	dev := stat(t, "v").Device
	queue := "/sys/block/" + strings.TrimPrefix(dev, "/dev/") + "/queue/"
	for file, want := range map[string]string{"write_cache": "write back", "fua": "1"} {
		if b, err := os.ReadFile(queue + file); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %q %v", file, b, err)
		}
	}
	ended, wait := background(t, dev, job{"4k", 24, 2}, job{"512-128k", 24, 2})
	for range 2 {
		pause(ended, 3)
		kill9(t, "v")
	}
	wait()
	run(t, "sync", dev)
	if s := stat(t, "v"); s.State != "alone" {
		t.Errorf("%+v", s)
	}
	robib(t, "stop", "v")
	if _, err := os.Stat("/run/robib-ublk/v.ram"); err == nil {
		t.Error("the memory file outlives stop")
	}
	robib(t, "add", "--name", "v")
	dev = stat(t, "v").Device
	if err := os.Remove("/run/robib-ublk/v.ram"); err != nil {
		t.Fatal(err)
	}
	kill9(t, "v")
	if s := stat(t, "v"); s.State != "failed" || !strings.Contains(s.Reason, "check the file system") {
		t.Errorf("without its memory: %+v", s)
	}
	if out, err := try("dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct"); err == nil {
		t.Errorf("it serves reads all the same: %s", out)
	}
	robib(t, "stop", "v")
	robib(t, "add", "--name", "v")
	robib(t, "del", "v")
}

// Two hardware queues carry one volume, also over a killed server; each gets its share.
func TestQueues(t *testing.T) {
	blank(t, dataA, logA)
	refused(t, 2, "--queues 9", "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log", "--queues", "9")
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log", "--queues", "2")
	dev := stat(t, "v").Device
	ended, wait := background(t, dev, job{"4k", 16, 2}, job{"512-128k", 16, 2})
	pause(ended, 3)
	kill9(t, "v")
	wait()
	run(t, "busybox", "taskset", "-c", "0", "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=200", "iflag=direct")
	run(t, "busybox", "taskset", "-c", "1", "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=200", "iflag=direct")
	var s struct {
		Queues []uint64 `json:"queue_requests_total"`
	}
	if err := json.Unmarshal([]byte(robib(t, "-j", "status", "v")), &s); err != nil || len(s.Queues) != 2 || s.Queues[0] < 200 || s.Queues[1] < 200 {
		t.Errorf("%+v %v", s, err)
	}
	robib(t, "del", "v")
}

// sum is that of the first 64 MiB of a device, in which the tests here write.
func sum(t *testing.T, dev string) string {
	t.Helper()
	return run(t, "sh", "-c", "head -c 67108864 "+dev+" | md5sum")
}

// With the state directory lost, the log's own superblock says whose it is, and the volume goes on.
func TestLostStateDirectory(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "v").Device
	run(t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "oflag=direct")
	before := sum(t, dev)
	robib(t, "stop", "v")
	if err := os.RemoveAll("/var/lib/robib-ublk/volumes"); err != nil {
		t.Fatal(err)
	}
	refused(t, 1, logA, "add", "--disk", dataA, "--log", logB, "--create-log")
	refused(t, 1, logA, "add", "--disk", dataA)
	out := robib(t, "add", "--name", "w", "--disk", dataA, "--log", logA)
	if !strings.Contains(out, "taken up again") {
		t.Error(out)
	}
	if got := sum(t, stat(t, "w").Device); got != before {
		t.Errorf("%s, was %s", got, before)
	}
	robib(t, "del", "w")
}
