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

// Where probes cannot be attached the server counts by its own stamps: every request, in stages that add
// up, and each report says what it is.
func TestOwnStamps(t *testing.T) {
	withProbes(t)                                                     // asked for, that is
	run(t, "mount", "--bind", "/dev/null", "/sys/kernel/btf/vmlinux") // as on a kernel without BTF
	t.Cleanup(func() { run(t, "umount", "/sys/kernel/btf/vmlinux") })
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "v").Device
	until(t, "requests are counted", func() bool { return strings.Contains(stat(t, "v").Latency, "the server's own stamps: ") })
	began, before := counted(t, "v"), kernelCounts(t, dev)
	run(t, "fio", "--name=q", "--filename="+dev, "--direct=1", "--ioengine=libaio", "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=16m", "--io_size=1m")
	r := counted(t, "v")
	for _, op := range []bpf.Op{bpf.Read, bpf.Write} {
		n := of(&r, op, bpf.StageTotal).Count
		if f := of(&began, op, bpf.StageTotal); f != nil {
			n -= f.Count
		}
		matches(t, op.String(), n, kernelCounts(t, dev)[op.String()]-before[op.String()], 0)
	}
	for _, o := range r.Operations {
		var parts, served uint64
		for _, s := range o.Stages[:len(o.Stages)-1] {
			parts += s.Sum
		}
		for _, s := range o.Served {
			served += s.Count
		}
		if total := o.Stages[len(o.Stages)-1]; total.Stage != bpf.StageTotal.String() || total.Sum != parts || total.Max == 0 || o.Op == bpf.Read.String() && served != o.Count {
			t.Errorf("%+v", o)
		}
	}
	text := robib(t, "latency", "show", "v", "duration", "0") + robib(t, "latency", "probes", "v")
	if t.Log(text); r.Note != latency.OwnNote || strings.Count(text, latency.OwnNote) != 2 || !strings.Contains(text, "block_rq_issue  not attached") {
		t.Errorf("%+v", r)
	}
	if list := robib(t, "latency", "outliers", "v", "threshold", "1ns", "duration", "1"); !strings.Contains(list, latency.OwnNote) {
		t.Error(list)
	}
	robib(t, "set", "v", "latency=off")
	if s := stat(t, "v").Latency; !strings.HasPrefix(s, "off") {
		t.Error(s)
	}
	robib(t, "del", "v")
}
