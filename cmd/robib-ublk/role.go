package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// PromoteCmd makes a secondary the primary.
type PromoteCmd struct {
	Name    string        `arg:"" help:"The volume."`
	Force   bool          `help:"Without asking a primary that is connected, or waiting for one that may only be starting: what only it has then stays behind."`
	Timeout time.Duration `default:"30s" help:"How long a connected primary may take to hand its role over, 1s to 1h." placeholder:"DURATION"`
}

// Run asks the volume's server, and that its primary where one is connected.
func (p *PromoteCmd) Run(cli *CLI) error {
	if p.Timeout < time.Second || p.Timeout > volume.MaxSwapWait {
		return volume.Usagef("--timeout %v: 1s to %v", p.Timeout, volume.MaxSwapWait)
	}
	var r volume.Promoted
	if err := do(p.Name, "promote", control.Args{Force: p.Force, WaitMillis: p.Timeout.Milliseconds()}, &r); err != nil {
		return err
	}
	return cli.print(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: this machine is the primary now, as of LSN %d\n", p.Name, r.LSN)
		if l := lost(&r); l != "" {
			fmt.Fprintf(w, "\t%s\n", l)
		}
		_, err := fmt.Fprintf(w, "%s: live\n", r.Device)
		return err
	})
}

// lost says what a promoted copy may lack.
func lost(r *volume.Promoted) string {
	known := fmt.Sprintf("LSN %d to %d", r.MissingFrom, r.MissingTo)
	if r.MissingBytes > 0 {
		known += fmt.Sprintf(" (at most %s of log)", volume.Bytes(r.MissingBytes))
	}
	switch {
	case r.Planned:
		return "the old primary handed its role over and follows: nothing is lost"
	case r.MissingTo > 0 && r.MayMiss:
		return fmt.Sprintf("not here: %s, and what followed in the %.1f s since the old primary was heard; some of it may have been acknowledged", known, r.SilentSeconds)
	case r.MissingTo > 0:
		return fmt.Sprintf("not here: %s, which were never acknowledged (sync)", known)
	case r.MayMiss:
		return fmt.Sprintf("may be missing: what the old primary wrote in the %.1f s since it was heard", r.SilentSeconds)
	}
	return ""
}

// DemoteCmd makes a primary a secondary.
type DemoteCmd struct {
	Name  string `arg:"" help:"The volume."`
	Force bool   `help:"Also when the peer is away, or was promoted meanwhile: what only this side has then stays behind."`
}

// Run asks the volume's server, if there is one, and starts it again as a secondary.
func (d *DemoteCmd) Run(cli *CLI) error {
	c, err := volume.LoadConfig(d.Name)
	if err != nil {
		return err
	}
	if err := needRoot(); err != nil {
		return err
	}
	err = do(d.Name, "demote", control.Args{Force: d.Force}, nil)
	switch {
	case errors.Is(err, control.ErrNotRunning) && c.Role == volume.Secondary:
		return fmt.Errorf("%s is a secondary already: `robib-ublk serve --name %s` starts it", d.Name, d.Name)
	case errors.Is(err, control.ErrNotRunning):
		// A primary that died: it comes back behind the peer that was promoted.
		c.Role, c.Demoted = volume.Secondary, true
		if err := c.Save(); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		waitReleased(c.Disk)
	}
	p, err := volume.Prepare(volume.Request{Role: volume.Secondary, Name: d.Name, DeviceID: -1})
	if err != nil {
		return err
	}
	defer p.Close()
	return start(cli, p, serving{}, false)
}
