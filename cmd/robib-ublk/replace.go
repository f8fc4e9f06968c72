package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// ReplaceDiskCmd gives a volume another data disk while it is in use.
type ReplaceDiskCmd struct {
	Name      string `arg:"" help:"The volume."`
	Disk      string `required:"" help:"The new disk, no smaller than the volume; the old one named again is filled anew." placeholder:"PATH"`
	Overwrite bool   `help:"Destroy what is found on the new disk."`
}

// Run asks the volume's server, and shows progress.
func (r *ReplaceDiskCmd) Run(cli *CLI) error {
	disk, err := filepath.Abs(r.Disk)
	if err != nil {
		return err
	}
	var done struct {
		Disk  string `json:"disk"`
		State string `json:"state"`
	}
	if err := do(r.Name, "replace-disk", control.Args{Disk: disk, Overwrite: r.Overwrite}, &done); err != nil {
		return err
	}
	return cli.print(done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s holds everything; %s\n", r.Name, done.Disk, done.State)
		return err
	})
}

// ReplaceLogCmd gives a volume whose log is lost another one.
type ReplaceLogCmd struct {
	Name      string `arg:"" help:"The volume."`
	Log       string `required:"" help:"The new log device or file; a file that is not there is made." placeholder:"PATH"`
	LogSize   int64  `help:"Size in MiB of a log file that is made, or of what is used of a log device." placeholder:"MIB"`
	CreateLog bool   `help:"Format a blank log device."`
	Overwrite bool   `help:"Destroy what is found on the log."`
}

// Run asks the volume's server.
func (r *ReplaceLogCmd) Run(cli *CLI) error {
	if r.LogSize < 0 {
		return volume.Usagef("--log-size %d: a positive number of MiB", r.LogSize)
	}
	log, err := filepath.Abs(r.Log)
	if err != nil {
		return err
	}
	var done struct {
		Log string `json:"log"`
	}
	if err := do(r.Name, "replace-log", control.Args{Log: log, LogBytes: r.LogSize << 20, CreateLog: r.CreateLog, Overwrite: r.Overwrite}, &done); err != nil {
		return err
	}
	return cli.print(done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: its next server begins with log %s; `robib-ublk status %s` says when it serves\n", r.Name, done.Log, r.Name)
		return err
	})
}
