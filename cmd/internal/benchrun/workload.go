package benchrun

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sizes that every case shares, in MiB.
const (
	regionMiB    = 64   // what the workloads touch; written once before anything is timed
	dataMiB      = 256  // a data disk
	logMiB       = 1024 // a log device: the workloads do not fill half of it
	spanMiB      = 512  // the data disk of a sustained run
	SustainedMiB = 64   // its log; the run writes four times as much
)

// Sustained is the word for the workload that writes four times the log.
const Sustained = "sustained"

// Workload is one fio job: so many requests of one kind.
type Workload struct {
	Name     string
	rw       string
	depth    int
	kib      int // of one request
	requests int // at scale 100
	more     []string
}

// Megabytes reports whether the rate is shown in MB/s and not in requests.
func (w *Workload) Megabytes() bool { return w.kib > 4 }

// workloads in the order of the columns.
var workloads = []Workload{
	{Name: "rr1", rw: "randread", depth: 1, kib: 4, requests: 6000},
	{Name: "rr32", rw: "randread", depth: 32, kib: 4, requests: 16000},
	{Name: "rw1", rw: "randwrite", depth: 1, kib: 4, requests: 6000},
	{Name: "rw1d", rw: "randwrite", depth: 1, kib: 4, requests: 6000, more: []string{"--sync=dsync"}},
	{Name: "rw1f", rw: "randwrite", depth: 1, kib: 4, requests: 6000, more: []string{"--fsync=1"}},
	{Name: "rw32", rw: "randwrite", depth: 32, kib: 4, requests: 16000},
	{Name: "mix", rw: "randrw", depth: 16, kib: 4, requests: 12000, more: []string{"--rwmixread=70"}},
	{Name: "sr8", rw: "read", depth: 8, kib: 128, requests: 1000},
	{Name: "sw8", rw: "write", depth: 8, kib: 128, requests: 1000},
}

// runOrder is the order in which they run, whatever was asked for first: what a read finds, and
// how full a log is, depends on the writes before it.
var runOrder = []string{"rw1", "rw32", "rw1d", "rw1f", "rr1", "rr32", "sw8", "sr8", "mix"}

// DefaultWorkloads are those of the table when none are named.
func DefaultWorkloads() []string {
	return []string{"rr1", "rr32", "rw1", "rw1d", "rw32", "sr8", "sw8"}
}

func workload(name string) *Workload {
	i := slices.IndexFunc(workloads, func(w Workload) bool { return w.Name == name })
	if i < 0 {
		return nil
	}
	return &workloads[i]
}

// ParseWorkloads splits names at commas and spaces and refuses unknown ones.
func ParseWorkloads(text string) ([]string, error) {
	names := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	for _, n := range names {
		if workload(n) == nil && n != Sustained {
			return nil, fmt.Errorf("workload %q: there are %s and %s", n, strings.Join(runOrder, " "), Sustained)
		}
	}
	return names, nil
}

// inOrder sorts names into the order in which they run.
func inOrder(names []string) (out []*Workload) {
	for _, n := range runOrder {
		if slices.Contains(names, n) {
			out = append(out, workload(n))
		}
	}
	return out
}

// args are fio's for n requests of w on dev, or as many as can be done in so many seconds.
func (w *Workload) args(dev string, n, seconds int) []string {
	a := append(fioBase(dev, regionMiB), "--name="+w.Name, "--rw="+w.rw, "--iodepth="+strconv.Itoa(w.depth), fmt.Sprintf("--bs=%dk", w.kib),
		fmt.Sprintf("--io_size=%dk", n*w.kib), fmt.Sprintf("--runtime=%d", seconds), "--randrepeat=1", "--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:99:99.9")
	return append(a, w.more...)
}

// fioBase are the arguments that every job on the first size MiB of dev has.
func fioBase(dev string, size int) []string {
	return []string{"--filename=" + dev, "--direct=1", "--ioengine=libaio", fmt.Sprintf("--size=%dm", size),
		"--norandommap=1", "--scramble_buffers=0", "--output-format=json"}
}

// fillArgs write every block of the first size MiB of dev once.
func fillArgs(dev string, size int) []string {
	return append(fioBase(dev, size), "--name=fill", "--rw=write", "--bs=1m", "--iodepth=4")
}

// warmArgs write a little, so that nothing happens for the first time while it is timed.
func warmArgs(dev string) []string {
	return append(fioBase(dev, regionMiB), "--name=warm", "--rw=randwrite", "--bs=4k", "--iodepth=1", "--io_size=2m")
}

// sustainedArgs write four times the log at random over the whole disk, and note when each request was answered.
func sustainedArgs(dev, log string) []string {
	return append(fioBase(dev, spanMiB), "--name="+Sustained, "--rw=randwrite", "--bs=4k", "--iodepth=32",
		fmt.Sprintf("--io_size=%dm", 4*SustainedMiB), "--randrepeat=1", "--write_lat_log="+log, "--disable_clat=1", "--disable_slat=1")
}
