package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// PromoteCmd makes a secondary the primary.
type PromoteCmd struct {
	Name  string `arg:"" help:"The volume."`
	Force bool   `help:"Although the primary is connected."`
}

// Run asks the volume's server.
func (p *PromoteCmd) Run(cli *CLI) error {
	var r volume.Promoted
	if err := do(p.Name, "promote", control.Args{Force: p.Force}, &r); err != nil {
		return err
	}
	return cli.print(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: this machine is the primary now, as of LSN %d\n", p.Name, r.LSN)
		switch {
		case r.MissingTo > 0 && r.MayMiss:
			fmt.Fprintf(w, "\tnot here: LSN %d to %d, and what followed in the %.1f s since the old primary was heard; some of it may have been acknowledged\n", r.MissingFrom, r.MissingTo, r.SilentSeconds)
		case r.MissingTo > 0:
			fmt.Fprintf(w, "\tnot here: LSN %d to %d, which were never acknowledged (sync)\n", r.MissingFrom, r.MissingTo)
		case r.MayMiss:
			fmt.Fprintf(w, "\tmay be missing: what the old primary wrote in the %.1f s since it was heard\n", r.SilentSeconds)
		}
		_, err := fmt.Fprintf(w, "%s: live\n", r.Device)
		return err
	})
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
