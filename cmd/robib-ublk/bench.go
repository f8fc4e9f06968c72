package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
	"github.com/robib-ublk/robib/uring"
)

// BenchCmd groups what benchmarks and tests need.
type BenchCmd struct {
	Target TargetCmd `cmd:"" help:"Hold a bare ublk device up until interrupted: null (does nothing) or file (a disk or file, nothing added)."`
}

// TargetCmd holds one bare device up.
type TargetCmd struct {
	Kind  string `arg:"" enum:"null,file" help:"null or file."`
	Path  string `arg:"" optional:"" help:"The disk or file of a file target."`
	Size  int64  `default:"1024" help:"Size of a null target in MiB."`
	ID    int    `default:"-1" help:"The N of /dev/ublkbN; -1 takes the first that is free."`
	Depth int    `default:"128" help:"Requests in flight."`

	Latency bool `help:"Attach the latency probes, as add does."`
}

// Run serves until SIGINT or SIGTERM.
func (t *TargetCmd) Run(*CLI) error {
	if (t.Kind == "file") != (t.Path != "") {
		return volume.Usagef("bench target: file needs a PATH, null takes none")
	}
	ublk.Process()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	open := func(*uring.Loop) (blk.Device, error) { return &blk.Null{SizeBytes: t.Size << 20}, nil }
	if t.Kind == "file" {
		f, err := filedev.OpenExclusive(t.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		open = func(l *uring.Loop) (blk.Device, error) { return filedev.Open(l, f, filedev.Options{Depth: t.Depth}) }
	}
	var tracer *latency.Tracer
	var err error
	serve := ublk.Serve(ctx, ublk.AddOptions{ID: t.ID, Depth: t.Depth}, open, func(d *ublk.Device, loop func(func(*ublk.Queues)) error) {
		if t.Latency {
			if tracer, err = latency.Follow(d, loop); err != nil {
				stop()
				return
			}
		}
		fmt.Println(d.Path())
	})
	if tracer != nil {
		err = tracer.Close() // nobody stamps any more
	}
	return errors.Join(err, serve)
}
