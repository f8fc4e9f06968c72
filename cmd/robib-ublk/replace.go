package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/robib-ublk/robib/cmd/internal/control"
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
