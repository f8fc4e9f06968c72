package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/benchrun"
	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// BenchCmd measures robib-ublk in a guest whose time is counted in instructions.
type BenchCmd struct {
	Set       string `arg:"" enum:"null,file,dcd,mirror" help:"null: a bare ublk device that does nothing; file: one over a disk; dcd: the disk caching disk without a peer; mirror: without a peer, sync, async, both ends in one guest."`
	Kernel    string `default:"7" help:"Kernel to measure on: 6.12, 7 (the newest Debian has), or the path of a vmlinuz-VERSION."`
	Workloads string `short:"w" help:"Workloads, instead of the set's own: rr1 rr32 rw1 rw1d rw1f rw32 mix sr8 sw8, and sustained for dcd." placeholder:"NAMES"`
	LogModel  string `enum:",nvme,sata,hdd,brd" default:"" help:"What the log is on: nvme (15 us), sata (80 us), hdd (8 ms) or brd (the kernel's RAM disk)."`
	DiskModel string `enum:",nvme,sata,hdd,brd" default:"" help:"What the data disk is."`
	Scale     int    `short:"x" default:"100" help:"Per cent of each workload's requests."`
	Probes    bool   `help:"Attach the latency probes: what they cost is in the figures then."`
}

// Run boots a guest for each case and prints the tables, also when a case failed.
func (b *BenchCmd) Run(*CLI) error {
	jobs, err := benchrun.ParseWorkloads(b.Workloads)
	if err != nil {
		return err
	}
	l, err := vm.New()
	if err != nil {
		return err
	}
	j, clean, err := job(l, b.Kernel)
	defer clean()
	if err != nil {
		return err
	}
	j.Icount, j.MemMiB, j.Disks = true, 4096, nil
	o := benchrun.Options{Set: b.Set, Workloads: jobs, Log: benchrun.Model(b.LogModel), Data: benchrun.Model(b.DiskModel), Scale: b.Scale, Probes: b.Probes}
	cases, err := benchrun.Plan(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	begun, failed := time.Now(), 0
	r := benchrun.Report{Cases: cases}
	for _, c := range cases {
		if ctx.Err() != nil {
			failed++
			continue
		}
		if err := measure(l, j, c, &r); err != nil {
			failed++
			fmt.Fprintf(os.Stderr, "lab: %s: %v\n", c.Name, err)
		}
	}
	fmt.Printf("Kernel %s, one CPU, 1 instruction = 1 ns; measured in %.0f s.\n%s", j.Kernel.Version, time.Since(begun).Seconds(), benchrun.Legend)
	r.Print(os.Stdout)
	if failed > 0 {
		fmt.Printf("\n%d of %d cases failed or did not run\n", failed, len(cases))
		return exitCode(1)
	}
	return nil
}

// measure boots a guest for one case.
func measure(l *vm.Lab, j vm.Job, c benchrun.Case, r *benchrun.Report) error {
	spec, err := json.Marshal(c)
	if err != nil {
		return err
	}
	j.Args, j.Out = []string{"/bin/lab", "guest-bench", string(spec)}, r.Collector(os.Stderr)
	what := c.Name
	if c.Sustained {
		what += " " + benchrun.Sustained
	}
	return l.Phase(what, func() error { return finish(l.Run(j)) })
}

// GuestBenchCmd is one case of the benchmark inside the guest.
type GuestBenchCmd struct {
	Spec string `arg:"" help:"The case, in JSON."`
}

// Run measures it.
func (g *GuestBenchCmd) Run(*CLI) error {
	var c benchrun.Case
	if err := json.Unmarshal([]byte(g.Spec), &c); err != nil {
		return err
	}
	return benchrun.Guest(c)
}

// GuestSoakCmd counts the time that nothing else in the guest wants.
type GuestSoakCmd struct{}

// Run never returns.
func (*GuestSoakCmd) Run(*CLI) error { return benchrun.Soak() }
