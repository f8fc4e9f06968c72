package link

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A user may run a certificate authority (CA) for these machines, in place of pinning each one's key on the other:
// it signs the key that a machine has anyway. The files lie beside the key and are read anew at each handshake, so
// that a renewed certificate counts at once. A pinned key never expires; a certificate does, and then is refused.
const (
	caFile   = "ca.pem"   // certificates of the authorities that are trusted
	certFile = "cert.pem" // this machine's, with those between it and an authority
)

// ErrExpired says that a certificate's time is over, or has not come, by this machine's clock.
var ErrExpired = errors.New("certificate not valid now")

// Request is a certificate signing request (PKCS #10, PEM) for the key; name is its common name.
func (k *Key) Request(name string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, k.private)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Certificate is the key's certificate by an authority; nil: it has none.
func (k *Key) Certificate() *x509.Certificate {
	if c := k.issued(); c != nil {
		return c.Leaf
	}
	return nil
}

// certificate is what the other end of a handshake is shown.
func (k *Key) certificate() *tls.Certificate {
	if c := k.issued(); c != nil {
		return c
	}
	return &k.cert
}

// issued reads what an authority has signed; nil: nothing, or not for this key.
func (k *Key) issued() *tls.Certificate {
	if k.dir == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(k.dir, certFile))
	if err != nil {
		return nil
	}
	chain, err := certificates(b)
	if err != nil || !k.holds(chain[0]) {
		return nil
	}
	c := &tls.Certificate{PrivateKey: k.private, Leaf: chain[0]}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// holds reports whether c is of this key.
func (k *Key) holds(c *x509.Certificate) bool {
	pub, ok := c.PublicKey.(ed25519.PublicKey)
	return ok && pub.Equal(k.private.Public())
}

// certificates parses PEM; there is one at least.
func certificates(b []byte) (l []*x509.Certificate, err error) {
	for {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			break
		}
		if p.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return nil, err
		}
		l = append(l, c)
	}
	if len(l) == 0 {
		return nil, errors.New("no certificate in it (PEM, -----BEGIN CERTIFICATE-----)")
	}
	return l, nil
}

// Authorities are those whose word is taken; none when they cannot be read.
func (t *Trust) Authorities() []*x509.Certificate {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(t.path), caFile))
	if err != nil {
		return nil
	}
	l, err := certificates(b)
	if err != nil {
		return nil
	}
	return l
}

// vouched is why a key that is not pinned is not let in, or nil: an authority that is trusted here has signed it.
func (t *Trust) vouched(chain []*x509.Certificate) error {
	ca := t.Authorities()
	if len(ca) == 0 {
		return ErrUntrusted
	}
	return verify(ca, chain, t.now())
}

// verify follows a chain of certificates to one of the authorities. Names in them mean nothing here.
func verify(ca, chain []*x509.Certificate, now time.Time) error {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range ca {
		o.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		return fmt.Errorf("%w: that of %q is valid from %s to %s, and here it is %s", ErrExpired, c.Subject.CommonName, day(c.NotBefore), day(c.NotAfter), now.UTC().Format(time.DateTime))
	}
	return fmt.Errorf("%w, and no authority that is trusted here has signed it: %w", ErrUntrusted, err)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// Certify takes authorities, and what one of them has signed for key (both PEM), into use: from the next handshake
// on this machine shows that, and lets in whoever an authority has signed for.
func Certify(key *Key, trust *Trust, authorities, cert []byte) error {
	ca, err := certificates(authorities)
	if err != nil {
		return fmt.Errorf("the authority's file: %w", err)
	}
	for _, c := range ca {
		if !c.IsCA {
			return fmt.Errorf("%q in the authority's file is no authority (basic constraints, CA)", c.Subject.CommonName)
		}
	}
	chain, err := certificates(cert)
	switch {
	case err != nil:
		return fmt.Errorf("the certificate's file: %w", err)
	case !key.holds(chain[0]):
		return fmt.Errorf("the certificate of %q is of another key than this machine's: `robib-ublk key request` prints what is to be signed", chain[0].Subject.CommonName)
	}
	if err := verify(ca, chain, trust.now()); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(key.dir, certFile), cert); err != nil {
		return err
	}
	return replaceFile(filepath.Join(filepath.Dir(trust.path), caFile), authorities)
}

// Uncertify forgets authorities and certificate: pinned keys alone count.
func Uncertify(key *Key, trust *Trust) error {
	var all error
	for _, p := range []string{filepath.Join(filepath.Dir(trust.path), caFile), filepath.Join(key.dir, certFile)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}
