package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/mirror/link"
)

// KeyCmd shows and trusts keys.
type KeyCmd struct {
	Show  KeyShowCmd  `cmd:"" help:"Show this machine's key and certificate, and whom it trusts."`
	Pair  KeyPairCmd  `cmd:"" help:"Print a new pairing token of a volume that serves; good once, for ten minutes."`
	Trust KeyTrustCmd `cmd:"" help:"Trust a key by its fingerprint, as key show prints it on the other machine."`

	Request KeyRequestCmd `cmd:"" help:"Print a certificate signing request for this machine's key, for an authority (CA) of your own."`
	Certify KeyCertifyCmd `cmd:"" help:"Take what that authority has signed into use: machines that it has signed for trust each other without pairing."`
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
	own, ca := certificate(key.Certificate()), []*certified{}
	for _, c := range trust.Authorities() {
		ca = append(ca, certificate(c))
	}
	return cli.print(map[string]any{"fingerprint": key.Fingerprint(), "trusted": list, "certificate": own, "authorities": ca}, func(w io.Writer) error {
		fmt.Fprintf(w, "this machine: %s\n", key.Fingerprint())
		if own != nil {
			fmt.Fprintf(w, "\tcertificate of %q by %q, valid until %s\n", own.Subject, own.Issuer, own.Until.Format(time.DateTime))
		}
		for _, c := range ca {
			fmt.Fprintf(w, "\ttrusts whoever authority %q has signed for; it is valid until %s\n", c.Subject, c.Until.Format(time.DateTime))
		}
		for _, t := range list {
			fmt.Fprintf(w, "\ttrusts %s  %s\n", t.Fingerprint, t.Name)
		}
		return nil
	})
}

// certified is what is shown of a certificate.
type certified struct {
	Subject string    `json:"subject"`
	Issuer  string    `json:"issuer"`
	Until   time.Time `json:"until"`
}

func certificate(c *x509.Certificate) *certified {
	if c == nil {
		return nil
	}
	return &certified{c.Subject.CommonName, c.Issuer.CommonName, c.NotAfter.UTC()}
}

// KeyRequestCmd prints what an authority is to sign.
type KeyRequestCmd struct {
	Name string `help:"Common name in it; the host's name where none is given." placeholder:"NAME"`
}

// Run prints PEM.
func (k *KeyRequestCmd) Run(cli *CLI) error {
	key, _, err := volume.Identity()
	if err != nil {
		return err
	}
	if k.Name == "" {
		if k.Name, err = os.Hostname(); err != nil {
			return err
		}
	}
	b, err := key.Request(k.Name)
	if err != nil {
		return err
	}
	return cli.print(map[string]string{"request": string(b)}, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// KeyCertifyCmd takes a certificate into use, or out of it.
type KeyCertifyCmd struct {
	CA     string `name:"ca" type:"path" placeholder:"FILE" help:"Certificates of the authorities that are trusted, PEM."`
	Cert   string `type:"path" placeholder:"FILE" help:"This machine's certificate, PEM, with those between it and the authority, if any."`
	Forget bool   `help:"Go back to pinned keys alone."`
}

// Run counts from the next handshake on; sessions that are up go on.
func (k *KeyCertifyCmd) Run(cli *CLI) error {
	if given := k.CA != ""; given != (k.Cert != "") || given == k.Forget {
		return volume.Usagef("say --ca FILE and --cert FILE, or --forget")
	}
	key, trust, err := volume.Identity()
	if err != nil {
		return err
	}
	if k.Forget {
		if err := link.Uncertify(key, trust); err != nil {
			return err
		}
		return cli.print(map[string]bool{"forgotten": true}, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, "pinned keys alone count from the next session on")
			return err
		})
	}
	ca, err := os.ReadFile(k.CA)
	if err != nil {
		return err
	}
	cert, err := os.ReadFile(k.Cert)
	if err != nil {
		return err
	}
	if err := link.Certify(key, trust, ca, cert); err != nil {
		return err
	}
	own := certificate(key.Certificate())
	return cli.print(own, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%q by %q, valid until %s: counts from the next session on\n", own.Subject, own.Issuer, own.Until.Format(time.DateTime))
		return err
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
