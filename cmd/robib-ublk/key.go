package main

import (
	"fmt"
	"io"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// KeyCmd shows and trusts keys.
type KeyCmd struct {
	Show  KeyShowCmd  `cmd:"" help:"Show this machine's key and those it trusts."`
	Pair  KeyPairCmd  `cmd:"" help:"Print a new pairing token of a volume that serves; good once, for ten minutes."`
	Trust KeyTrustCmd `cmd:"" help:"Trust a key by its fingerprint, as key show prints it on the other machine."`
}

// KeyShowCmd shows keys.
type KeyShowCmd struct{}

// Run prints fingerprints.
func (*KeyShowCmd) Run(cli *CLI) error {
	key, trust, err := volume.Identity()
	if err != nil {
		return err
	}
	list := trust.List()
	return cli.print(map[string]any{"fingerprint": key.Fingerprint(), "trusted": list}, func(w io.Writer) error {
		fmt.Fprintf(w, "this machine: %s\n", key.Fingerprint())
		for _, t := range list {
			fmt.Fprintf(w, "\ttrusts %s  %s\n", t.Fingerprint, t.Name)
		}
		return nil
	})
}

// KeyPairCmd makes a token.
type KeyPairCmd struct {
	Name string `arg:"" help:"The volume that serves."`
}

// Run asks the volume's server.
func (k *KeyPairCmd) Run(cli *CLI) error {
	var r struct {
		Token   string `json:"token"`
		Address string `json:"address"`
	}
	if err := do(k.Name, "pair", control.Args{}, &r); err != nil {
		return err
	}
	return cli.print(r, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, r.Token)
		return err
	})
}

// KeyTrustCmd trusts a key.
type KeyTrustCmd struct {
	Fingerprint string `arg:"" help:"The other machine's fingerprint."`
	Name        string `help:"What to call it." placeholder:"NAME"`
}

// Run pins the key.
func (k *KeyTrustCmd) Run(cli *CLI) error {
	_, trust, err := volume.Identity()
	if err != nil {
		return err
	}
	if err := trust.Add(k.Name, k.Fingerprint); err != nil {
		return volume.Usagef("%v", err)
	}
	return cli.print(map[string]string{"trusted": k.Fingerprint}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "trusted: %s\n", k.Fingerprint)
		return err
	})
}
