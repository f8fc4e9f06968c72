//go:build vm

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/benchrun"
	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// steady keeps everything in memory, whose answers come in the guest's own time.
func steady(t *testing.T) {
	t.Helper()
	const dir = "/var/lib/robib-ublk"
	if err := unix.Mount("state", dir, "tmpfs", 0, "mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// memDisk is a disk in memory, each of whose requests takes nanos.
func memDisk(t *testing.T, name string, mib, nanos int) string {
	t.Helper()
	dev, err := benchrun.NullDisk(name, mib, nanos, 128)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dir := "/sys/kernel/config/nullb/" + name
		if out, err := try("sh", "-c", "echo 0 > "+dir+"/power && rmdir "+dir); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dev
}

// slow is disk behind a layer that can delay what it is asked for.
func slow(t *testing.T, name, disk string) (dev string, delay func(readMillis, writeMillis int)) {
	t.Helper()
	sectors := strings.TrimSpace(run(t, "blockdev", "--getsz", disk))
	table := func(r, w int) string { return fmt.Sprintf("0 %s delay %s 0 %d %s 0 %d", sectors, disk, r, disk, w) }
	return mapper(t, name, table(0, 0)), func(r, w int) {
		run(t, "dmsetup", "suspend", "--nolockfs", name)
		run(t, "dmsetup", "load", name, "--table", table(r, w))
		run(t, "dmsetup", "resume", name)
	}
}

// anew begins the counting of a volume's requests anew.
func anew(t *testing.T, name string) {
	t.Helper()
	robib(t, "set", name, "latency=off")
	robib(t, "set", name, "latency=on")
	traced(t, name)
}

// traced waits until the probes are attached.
func traced(t *testing.T, name string) {
	t.Helper()
	until(t, "probes", func() bool {
		_, err := try("robib-ublk", "latency", "show", name, "duration", "0")
		return err == nil
	})
}

// counted is what there was since counting began.
func counted(t *testing.T, name string) (r latency.Report) {
	t.Helper()
	if err := json.Unmarshal([]byte(robib(t, "-j", "latency", "show", name, "duration", "0")), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// kernelCounts are those of /sys/block/*/stat, by operation.
func kernelCounts(t *testing.T, dev string) map[string]uint64 {
	t.Helper()
	b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b))
	n := map[string]uint64{}
	for op, i := range map[bpf.Op]int{bpf.Read: 0, bpf.Write: 4, bpf.Discard: 11, bpf.Flush: 15} {
		if n[op.String()], err = strconv.ParseUint(f[i], 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// missed is how often a probe could not run for a request, of this or of another device, because an
// interrupt had come while it did.
func missed(t *testing.T, name string) (n uint64) {
	t.Helper()
	var doc struct{ Probes []latency.Probe }
	if err := json.Unmarshal([]byte(robib(t, "-j", "latency", "probes", name, "duration", "0")), &doc); err != nil || len(doc.Probes) == 0 {
		t.Fatal(err)
	}
	for _, p := range doc.Probes {
		if strings.HasPrefix(p.Tracepoint, "block_") {
			n += p.Missed
		}
	}
	return n
}

// whole checks that r has every request that the volume's dev completed since before, but for the few that
// were missed, each with the server's stamps, and that their stages add up.
func whole(t *testing.T, name string, r *latency.Report, dev string, before map[string]uint64) {
	t.Helper()
	lost := missed(t, name)
	ours := map[string]uint64{}
	for _, o := range r.Operations {
		ours[o.Op] = o.Count
		var parts, total uint64
		for _, s := range o.Stages {
			switch s.Stage {
			case bpf.StageTotal.String():
				total = s.Sum
			case bpf.StageDevice.String(), bpf.StageRing.String(), bpf.StageWake.String():
			default:
				parts += s.Sum
			}
		}
		served := uint64(0)
		for _, s := range o.Served {
			served += s.Count
		}
		if o.Op == bpf.Read.String() && served != o.Count {
			t.Errorf("%d reads, %d of them served somewhere", o.Count, served)
		}
		if float64(parts) < 0.99*float64(total) || float64(parts) > 1.01*float64(total) {
			t.Errorf("%s: the stages are %d ns of %d", o.Op, parts, total)
		}
	}
	for op, n := range kernelCounts(t, dev) {
		n -= before[op]
		if op == bpf.Write.String() {
			// The kernel does not tell the writing of zeros from writes, nor the empty write that a flush is.
			n -= ours[bpf.WriteZeroes.String()] + ours[bpf.Flush.String()]
		}
		matches(t, op, ours[op], n, lost)
	}
	if c := r.Counts; c.Completed == 0 || c.Matched != c.Completed || c.Full != 0 {
		t.Errorf("%+v", c)
	}
}

// matches compares a count with the kernel's; where events were missed, one in a hundred may be.
func matches(t *testing.T, op string, ours, kernels, lost uint64) {
	t.Helper()
	if ours > kernels || ours+min(lost, 1+kernels/100) < kernels {
		t.Errorf("%s: %d counted, the kernel has %d, and %d events were missed", op, ours, kernels, lost)
	}
}

// of gives a stage of an operation; nil: there was none.
func of(r *latency.Report, op bpf.Op, st bpf.Stage) *latency.Figure {
	for i := range r.Operations {
		if o := &r.Operations[i]; o.Op == op.String() {
			for j := range o.Stages {
				if o.Stages[j].Stage == st.String() {
					return &o.Stages[j]
				}
			}
		}
	}
	return nil
}

// percents are the percentiles that are compared.
var percents = []float64{50, 90, 99, 99.9}

// load runs fio on the second half of a volume's 64 MiB, or on the first one, and gives how many requests it
// made and its own percentiles of their completion latency, in ns. No block is asked for twice: btt tells
// requests apart by their sector.
func load(t *testing.T, dev, rw string, depth, n int) (count uint64, clat [4]float64) {
	t.Helper()
	offset := "0"
	if rw == "randread" {
		offset = "32m" // what no write here went to
	}
	out := run(t, "fio", "--name=l", "--filename="+dev, "--direct=1", "--ioengine=libaio", "--rw="+rw, "--bs=4k", "--iodepth="+itoa(depth), "--offset="+offset, "--size=32m",
		"--randrepeat=1", "--io_size="+itoa(n*4)+"k", "--clat_percentiles=1", "--percentile_list=50:90:99:99.9", "--output-format=json")
	type side struct {
		Total uint64 `json:"total_ios"`
		Clat  struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var doc struct{ Jobs []struct{ Read, Write side } }
	if at := strings.IndexByte(out, '{'); at < 0 || json.Unmarshal([]byte(out[at:]), &doc) != nil || len(doc.Jobs) != 1 {
		t.Fatal(out)
	}
	s := doc.Jobs[0].Write
	if rw == "randread" {
		s = doc.Jobs[0].Read
	}
	for i, p := range percents {
		clat[i] = s.Clat.Percentile[fmt.Sprintf("%f", p)]
	}
	return s.Total, clat
}

// blktraced runs f under blktrace and gives, sorted, what btt says that requests took from being queued to being complete, in ns.
func blktraced(t *testing.T, dev string, f func()) (q2c []float64) {
	t.Helper()
	dir := t.TempDir()
	trace := exec.Command("blktrace", "-d", dev, "-D", dir, "-o", "t", "-b", "1024", "-n", "16")
	var said strings.Builder
	trace.Stdout, trace.Stderr = &said, &said
	if err := trace.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "blktrace", func() bool {
		_, err := os.Stat("/sys/kernel/debug/block/" + filepath.Base(dev) + "/dropped")
		return err == nil
	})
	f()
	if err := trace.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := trace.Wait(); err != nil {
		t.Fatalf("blktrace: %v\n%s", err, &said)
	}
	run(t, "blkparse", "-q", "-D", dir, "-i", "t", "-d", dir+"/bin", "-O")
	run(t, "btt", "-i", dir+"/bin", "-q", dir+"/l", "-o", dir+"/btt")
	files, err := filepath.Glob(dir + "/l*")
	if err != nil || len(files) != 1 {
		t.Fatalf("btt left %v, %v", files, err)
	}
	out, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		w := strings.Fields(lines.Text())
		v, err := strconv.ParseFloat(w[len(w)-1], 64)
		if err != nil {
			t.Fatal(err)
		}
		q2c = append(q2c, v*1e9)
	}
	slices.Sort(q2c)
	return q2c
}

// TestLatencyExactAgrees compares the report of a volume on disks of 2 ms with the kernel's own counts, with
// what blktrace saw of the same requests, and with what fio did.
func TestLatencyExactAgrees(t *testing.T) {
	withProbes(t)
	steady(t)
	const millis = 2_000_000
	robib(t, "add", "--name", "v", "--disk", memDisk(t, "data", 64, millis), "--log", memDisk(t, "log", 64, millis), "--create-log")
	dev := stat(t, "v").Device
	traced(t, "v")
	for _, c := range []struct {
		op    bpf.Op
		rw    string
		depth int
	}{{bpf.Read, "randread", 1}, {bpf.Read, "randread", 8}, {bpf.Write, "randwrite", 1}, {bpf.Write, "randwrite", 8}} {
		t.Run(fmt.Sprintf("%s %d", c.rw, c.depth), func(t *testing.T) {
			const n = 2000
			robib(t, "destage", "v")
			anew(t, "v")
			before := kernelCounts(t, dev)
			var r latency.Report
			var did uint64
			var clat [4]float64
			q2c := blktraced(t, dev, func() { did, clat = load(t, dev, c.rw, c.depth, n) })
			r = counted(t, "v")
			whole(t, "v", &r, dev, before)
			f := of(&r, c.op, bpf.StageTotal)
			if f == nil || did != n || f.Count != n || len(q2c) != n {
				t.Fatalf("fio made %d requests, blktrace saw %d: %+v", did, len(q2c), f)
			}
			for i, mine := range []uint64{f.P50, f.P90, f.P99, f.P999} {
				btt := q2c[int(math.Ceil(percents[i]/100*n))-1]
				t.Logf("p%-4v %.1f us, btt %.1f us, fio %.1f us", percents[i], float64(mine)/1e3, btt/1e3, clat[i]/1e3)
				// Half a bucket here. blktrace begins some instructions earlier.
				if d := math.Abs(float64(mine) - btt); d > 0.0625*btt+5e3 {
					t.Errorf("p%v: %d ns, btt says %.0f", percents[i], mine, btt)
				}
				// fio has buckets too, of 1/64, and begins and ends outside the kernel: two of its 2000 requests may
				// have waited for the one CPU.
				if d := math.Abs(float64(mine) - clat[i]); percents[i] <= 99 && d > (0.0625+1.0/64)*clat[i]+50e3 {
					t.Errorf("p%v: %d ns, fio says %.0f", percents[i], mine, clat[i])
				}
			}
			if f.Min < millis/2 || f.P50 < millis*9/10 {
				t.Errorf("less than the disk takes: %+v", f)
			}
		})
	}
	robib(t, "del", "v")
}

// TestLatencyExactDelays delays one thing after the other, and looks where it shows.
func TestLatencyExactDelays(t *testing.T) {
	withProbes(t)
	steady(t)
	const usual, millis, tcp = 15_000, 40, "tcp round trip"
	data, delayData := slow(t, "slowdata", memDisk(t, "data", 64, usual))
	log, delayLog := slow(t, "slowlog", memDisk(t, "log", 64, usual))
	data2 := memDisk(t, "data2", 64, usual)
	log2, delayLog2 := slow(t, "slowlog2", memDisk(t, "log2", 64, usual))
	p := newPairOf(t, "sync", data, log, data2, log2)
	robib(t, "pause", "p", "destage") // it would compete for the slow disk
	means := func() map[string]float64 {
		anew(t, "p")
		before := kernelCounts(t, p.Dev)
		load(t, p.Dev, "randwrite", 1, 60)
		load(t, p.Dev, "randread", 1, 60)
		r := counted(t, "p")
		whole(t, "p", &r, p.Dev, before)
		m := map[string]float64{}
		for _, o := range r.Operations {
			for _, s := range o.Stages {
				m[o.Op+" "+s.Stage] = s.Mean / 1e6
			}
		}
		if r.Network == nil || r.Network.Data == nil || r.Network.Control == nil {
			t.Error("nothing is known of the network")
		} else {
			m[tcp] = float64(r.Network.Data.RTTNanos) / 1e6
		}
		return m
	}
	base := means()
	t.Log(robib(t, "latency", "show", "p", "duration", "0"), robib(t, "status", "p"))
	for _, c := range []struct {
		what string
		set  func(millis int)
		grow []string
	}{
		{"data disk", func(ms int) { delayData(ms, 0) }, []string{"read data", "read total"}},
		{"log", func(ms int) { delayLog(0, ms) }, []string{"write log", "write total"}},
		{"peer's log", func(ms int) { delayLog2(0, ms) }, []string{"write peer_acked", "write total"}},
		{"network", func(ms int) {
			if ms == 0 {
				run(t, "tc", "qdisc", "del", "dev", "lo", "root")
				return
			}
			run(t, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", fmt.Sprintf("%dms", ms/2))
		}, []string{"write peer_acked", "write total", tcp}},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.set(millis)
			m := means()
			c.set(0)
			t.Logf("%v", m)
			for _, s := range c.grow {
				if d := m[s] - base[s]; d < 0.9*millis {
					t.Errorf("%s: %.2f ms more", s, d)
				}
			}
			delete(m, tcp) // a TCP that has nothing to send yet acknowledges up to 40 ms later
			for s := range m {
				if d := m[s] - base[s]; !slices.Contains(c.grow, s) && d > 0.1*millis {
					t.Errorf("%s: %.2f ms more, and nothing there was delayed", s, d)
				}
			}
		})
	}
	robib(t, "resume", "p", "destage")
	inSync(t, "p")
	robib(t, "del", "p")
	robib(t, "del", "s")
}

// TestLatencyExactShapes counts requests that are split, merged, flushes, and those of a device that
// keeps no statistics, on two volumes at once.
func TestLatencyExactShapes(t *testing.T) {
	withProbes(t)
	steady(t)
	var devs []string
	names := []string{"v", "w"}
	for _, v := range names {
		robib(t, "add", "--name", v, "--disk", memDisk(t, v+"data", 64, 15_000), "--log", memDisk(t, v+"log", 64, 15_000), "--create-log", "--write-cache")
		devs = append(devs, stat(t, v).Device)
		traced(t, v)
	}
	if err := vm.Insert("mq_deadline", ""); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err) // where there is no such module it is built in
	}
	queue := func(name, value string) {
		for _, d := range devs {
			if err := os.WriteFile("/sys/block/"+filepath.Base(d)+"/queue/"+name, []byte(value), 0); err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range []struct {
		what, iostats, scheduler string
		kib                      int // of one of fio's requests
		fio                      []string
		ok                       func(r *latency.Report, asked uint64) bool
	}{
		{"split", "1", "none", 2048, []string{"--rw=rw", "--iodepth=2"}, func(r *latency.Report, asked uint64) bool { return r.Counts.Completed >= 4*asked }},
		{"merged", "1", "mq-deadline", 4, []string{"--rw=write", "--iodepth=64", "--iodepth_batch_submit=16", "--iodepth_batch_complete_min=16"},
			func(r *latency.Report, asked uint64) bool { return r.Counts.Completed < asked/2 }},
		{"flushes", "1", "none", 4, []string{"--rw=randwrite", "--fsync=2"}, func(r *latency.Report, asked uint64) bool {
			f := of(r, bpf.Flush, bpf.StageTotal)
			return f != nil && f.Count >= asked*49/100 && r.Counts.Unseen >= f.Count
		}},
		{"no statistics", "0", "none", 4, []string{"--rw=randrw", "--iodepth=8"}, func(r *latency.Report, asked uint64) bool {
			w, d := of(r, bpf.Write, bpf.StageTotal), of(r, bpf.Read, bpf.StageTotal)
			counted := uint64(r.Seconds * 1e9) // and nothing took longer
			return w != nil && d != nil && w.Count+d.Count > asked*99/100 && w.Max < counted && d.Max < counted
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			queue("iostats", c.iostats)
			queue("scheduler", c.scheduler)
			var before []map[string]uint64
			jobs := []string{"--direct=1", "--ioengine=libaio", "--size=8m", "--group_reporting=0", fmt.Sprintf("--bs=%dk", c.kib)}
			mib := func(i int) int { return 4 + 4*i }
			for i, v := range names {
				anew(t, v)
				before = append(before, kernelCounts(t, devs[i]))
				jobs = append(append(jobs, "--name="+v, "--filename="+devs[i], fmt.Sprintf("--io_size=%dm", mib(i))), c.fio...)
			}
			run(t, "fio", jobs...)
			for i, v := range names {
				r := counted(t, v)
				asked := uint64(mib(i) << 10 / c.kib)
				t.Logf("%s: of %d: %+v", v, asked, r.Counts)
				if c.iostats == "1" {
					whole(t, v, &r, devs[i], before[i])
				}
				if !c.ok(&r, asked) {
					t.Errorf("%s: of %d: %+v", v, asked, r)
				}
			}
		})
	}
	queue("iostats", "1")
	for _, v := range names {
		robib(t, "del", v)
	}
}

// TestLatencyExactRecovery kills the server under load: the requests that its successor is given again, and
// those that use their tags afterwards, are counted with the successor's stamps alone.
func TestLatencyExactRecovery(t *testing.T) {
	withProbes(t)
	steady(t)
	data, delay := slow(t, "slowdata", memDisk(t, "data", 64, 15_000))
	robib(t, "add", "--name", "v", "--disk", data, "--log", memDisk(t, "log", 64, 15_000), "--create-log")
	dev := stat(t, "v").Device
	traced(t, "v")
	load(t, dev, "randread", 32, 300) // every tag has been used
	delay(500, 0)
	reads := exec.Command("fio", "--name=r", "--filename="+dev, "--direct=1", "--ioengine=libaio", "--rw=randread", "--bs=4k", "--iodepth=16", "--offset=32m", "--size=32m", "--io_size=1m")
	if err := reads.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "reads wait for the disk", func() bool {
		return strings.Contains(robib(t, "latency", "inflight", "v", "op", "read"), "server")
	})
	kill9(t, "v")
	traced(t, "v")
	delay(0, 0)
	if err := reads.Wait(); err != nil {
		t.Error(err)
	}
	before := counted(t, "v")
	kernel := kernelCounts(t, dev)
	load(t, dev, "randread", 32, 300)
	load(t, dev, "randwrite", 32, 300)
	after := counted(t, "v")
	for op, n := range kernelCounts(t, dev) {
		var was, is uint64
		for o := range bpf.Ops {
			if o.String() != op {
				continue
			}
			if f := of(&before, o, bpf.StageTotal); f != nil {
				was = f.Count
			}
			if f := of(&after, o, bpf.StageTotal); f != nil {
				is = f.Count
			}
		}
		matches(t, op, is-was, n-kernel[op], missed(t, "v"))
	}
	if c := after.Counts; c.Matched != c.Completed || c.Completed < 590 {
		t.Errorf("%+v", c)
	}
	anew(t, "v")
	kernel = kernelCounts(t, dev)
	load(t, dev, "randread", 32, 300)
	after = counted(t, "v")
	whole(t, "v", &after, dev, kernel)
	if f := of(&after, bpf.Read, bpf.StageTotal); f == nil || f.Max > 400e6 {
		t.Errorf("a read that was delayed before: %+v", f)
	}
	robib(t, "del", "v")
}
