package main

import (
	"fmt"
	"io"
	"strings"
)

// PauseCmd makes parts of a volume's work stand still.
type PauseCmd struct {
	Name string   `arg:"" help:"The volume."`
	What []string `arg:"" enum:"destage,resync" help:"destage: the data disk is let alone until the log is full. resync: full and map syncs and refills stand still, writes go on to the peer."`
}

// Run changes the settings.
func (p *PauseCmd) Run(cli *CLI) error { return settle(cli, p.Name, p.What, "pause", "paused") }

// ResumeCmd lets them go on.
type ResumeCmd struct {
	Name string   `arg:"" help:"The volume."`
	What []string `arg:"" enum:"destage,resync" help:"destage or resync."`
}

// Run changes the settings.
func (r *ResumeCmd) Run(cli *CLI) error { return settle(cli, r.Name, r.What, "run", "goes on") }

// DisconnectCmd ends the session with the peer.
type DisconnectCmd struct {
	Name string `arg:"" help:"The volume."`
}

// Run changes the setting.
func (d *DisconnectCmd) Run(cli *CLI) error {
	return settle(cli, d.Name, []string{"link"}, "down", "down until `connect`")
}

// ConnectCmd takes a DisconnectCmd back.
type ConnectCmd struct {
	Name string `arg:"" help:"The volume."`
}

// Run changes the setting.
func (c *ConnectCmd) Run(cli *CLI) error { return settle(cli, c.Name, []string{"link"}, "up", "up") }

// settle gives the settings a value, and says so.
func settle(cli *CLI, name string, settings []string, value, done string) error {
	set := map[string]string{}
	for _, s := range settings {
		set[s] = value
	}
	now, err := change(name, set)
	if err != nil {
		return err
	}
	return cli.print(now, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s %s\n", name, strings.Join(settings, ", "), done)
		return err
	})
}
