//go:build vm

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/latency"
)

// The latency report of a volume on a real device: writes are there with the server's own stages, and
// the probes do not hurt a server that is killed.
func TestLatency(t *testing.T) {
	withProbes(t)
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "v").Device
	ended, wait := background(t, dev, job{"4k", 16, 1})
	pause(ended, 2)
	var r latency.Report
	if err := json.Unmarshal([]byte(robib(t, "-j", "latency", "show", "v", "duration", "4")), &r); err != nil {
		t.Fatal(err)
	}
	if r.Counts.Completed == 0 || r.Counts.Matched < r.Counts.Completed*9/10 || of(&r, bpf.Write, bpf.StageLog) == nil {
		t.Errorf("%+v", r)
	}
	t.Log(robib(t, "latency", "show", "v", "duration", "2"))
	t.Log(robib(t, "latency", "probes", "v"))
	kill9(t, "v")
	wait()
	if b, err := os.ReadFile("/var/log/robib-ublk/v.log"); err == nil && strings.Contains(string(b), "panic") {
		t.Errorf("%s", b)
	}
	robib(t, "del", "v")
}

// Requests of every hardware queue are found in their slots: queue times depth plus tag.
func TestLatencyQueues(t *testing.T) {
	withProbes(t)
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log", "--queues", "2")
	dev := stat(t, "v").Device
	traced(t, "v")
	before := kernelCounts(t, dev)
	slow := exec.Command("robib-ublk", "-j", "latency", "outliers", "v", "threshold", "1us", "rate", "100000", "duration", "60")
	var out strings.Builder
	slow.Stdout = &out
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "outliers are told", func() bool {
		run(t, "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
		r := counted(t, "v")
		return r.Counts.Slow > 0
	})
	for cpu := range 2 {
		run(t, "fio", "--name=q", "--filename="+dev, "--direct=1", "--ioengine=libaio", "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=16m", "--io_size=1m", "--cpus_allowed="+itoa(cpu))
	}
	r := counted(t, "v")
	if err := slow.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := slow.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
	whole(t, "v", &r, dev, before)
	var doc struct {
		Outliers []latency.Request `json:"outliers"`
	}
	if err := json.Unmarshal([]byte(out.String()), &doc); err != nil {
		t.Fatal(err)
	}
	var told [2]int
	for _, q := range doc.Outliers {
		if q.Queue < 0 || q.Queue > 1 || q.Tag < 0 || q.Tag > 127 {
			t.Fatalf("%+v", q)
		}
		told[q.Queue]++
	}
	if told[0] < 100 || told[1] < 100 {
		t.Errorf("requests of the queues: %v", told)
	}
	robib(t, "del", "v")
}
