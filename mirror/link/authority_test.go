package link

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/robib-ublk/robib/uring"
)

// testCA is a certificate authority of a user's.
type testCA struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func newCA(t *testing.T, name string, isCA bool) *testCA {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &testCA{k, c}
}

// signs what a machine requests.
func (ca *testCA) signs(t *testing.T, m machine, name string, from, to time.Time) []byte {
	t.Helper()
	b, err := m.key.Request(name)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := pem.Decode(b)
	q, err := x509.ParseCertificateRequest(p.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.CheckSignature(); err != nil || q.Subject.CommonName != name {
		t.Fatal(q.Subject, err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: q.Subject, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, q.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// certified is a machine that pins nobody, for a year.
func (ca *testCA) certified(t *testing.T, name string) machine {
	t.Helper()
	m := newMachine(t)
	if err := Certify(m.key, m.trust, encode(ca.cert), ca.signs(t, m, name, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))); err != nil {
		t.Fatal(err)
	}
	return m
}

// Machines that an authority of the user's has signed for let each other in without having pinned a key, as long as
// the certificates last; nobody else gets in by them, and pinned keys do not care what time it is.
func TestAuthority(t *testing.T) {
	ca, other := newCA(t, "ours", true), newCA(t, "theirs", true)
	later := func(m machine) machine {
		m.trust.now = func() time.Time { return time.Now().AddDate(3, 0, 0) }
		return m
	}
	ageless := func() (a, b machine) {
		a, b = paired(t)
		return later(a), later(b)
	}
	one, two := ca.certified(t, "one"), ca.certified(t, "two")
	pinA, pinB := ageless()
	mixed := ca.certified(t, "mixed")
	if err := mixed.trust.Add("pin", pinA.key.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name           string
		dials, listens machine
		expect         string
		in             bool
		says           string // the dialer; "" where it learns no more than that it is refused
		alarm          string // at the listener
	}{
		{"both of one authority", one, two, "", true, "", ""},
		{"the one that is expected", one, two, two.key.Fingerprint(), true, "", ""},
		{"another than is expected", one, two, pinA.key.Fingerprint(), false, "it is not this volume's peer", ""},
		{"the listener's is of another authority", one, other.certified(t, "x"), "", false, "no authority that is trusted here has signed it", ""},
		{"the listener has none", one, newMachine(t), "", false, "no authority that is trusted here has signed it", ""},
		{"the dialer has none", newMachine(t), one, "", false, "not trusted here", ""},
		{"the listener's is over", later(ca.certified(t, "y")), two, "", false, `certificate not valid now: that of "two" is valid from`, ""},
		{"the dialer's is over", one, later(ca.certified(t, "z")), "", false, "", `that of "one" is valid from`},
		{"pinned keys, years later", pinA, pinB, "", true, "", ""},
		{"pinned on one side, signed for on the other", one, mixed, "", true, "", ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			onLoop(t, func(l *uring.Loop) {
				ln, err := NewListener(l, "127.0.0.1:0", r.listens.key, r.listens.trust, false)
				if err != nil {
					t.Error(err)
					return
				}
				defer ln.Close()
				var heard atomic.Value
				ln.Alarm(func(host string, err error) { heard.Store(host + ": " + err.Error()) })
				x, y, err := visit(t, l, ln, r.dials, r.expect)
				if r.in != (y != nil) || err != nil && !strings.Contains(err.Error(), r.says) {
					t.Errorf("it gets in %v, wanted %v; the dialer says %v", y != nil, r.in, err)
				}
				if r.alarm != "" {
					step(t, l, func() bool { return heard.Load() != nil })
				}
				if got, _ := heard.Load().(string); !strings.Contains(got, r.alarm) || r.alarm == "" && got != "" {
					t.Errorf("alarm %q", got)
				}
				for _, c := range []*Conn{x, y} {
					if c != nil {
						c.Close()
					}
				}
				step(t, l, func() bool { return (x == nil || x.freed) && (y == nil || y.freed) })
			})
		})
	}
}

// What would not work is refused before it is taken into use; what is taken into use counts at once, and so does
// its end.
func TestCertify(t *testing.T) {
	ca, other, leaf := newCA(t, "ours", true), newCA(t, "theirs", true), newCA(t, "a leaf", false)
	m := newMachine(t)
	now := time.Now()
	good := ca.signs(t, m, "m", now.Add(-time.Hour), now.Add(time.Hour))
	for _, r := range []struct {
		name     string
		ca, cert []byte
		says     string
	}{
		{"no PEM", []byte("x"), good, "no certificate in it"},
		{"no certificate", encode(ca.cert), nil, "no certificate in it"},
		{"no authority", encode(leaf.cert), good, "is no authority"},
		{"of another key", encode(ca.cert), ca.signs(t, newMachine(t), "n", now, now.Add(time.Hour)), "another key than this machine's"},
		{"of another authority", encode(other.cert), good, "no authority that is trusted here has signed it"},
		{"over", encode(ca.cert), ca.signs(t, m, "m", now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0)), "not valid now"},
		{"to come", encode(ca.cert), ca.signs(t, m, "m", now.AddDate(1, 0, 0), now.AddDate(2, 0, 0)), "not valid now"},
	} {
		if err := Certify(m.key, m.trust, r.ca, r.cert); err == nil || !strings.Contains(err.Error(), r.says) {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	if m.key.Certificate() != nil || m.trust.Authorities() != nil {
		t.Error("something refused is in use")
	}
	if err := Certify(m.key, m.trust, encode(ca.cert), good); err != nil {
		t.Fatal(err)
	}
	if c, a := m.key.Certificate(), m.trust.Authorities(); c == nil || c.Subject.CommonName != "m" || len(a) != 1 {
		t.Error(c, a)
	}
	if err := errors.Join(Uncertify(m.key, m.trust), Uncertify(m.key, m.trust)); err != nil || m.key.Certificate() != nil || m.trust.Authorities() != nil {
		t.Error(err)
	}
}
