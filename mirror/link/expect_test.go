package link

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/robib-ublk/robib/uring"
)

// visit has a machine that expects key dial a listener, and gives the two ends of what is made of it, or an error.
func visit(t *testing.T, l *uring.Loop, ln *Listener, m machine, key string) (x, y *Conn, err error) {
	t.Helper()
	d := NewDialer(l, []string{ln.Addr().String()}, m.key, m.trust)
	defer d.Close()
	d.Expect(key)
	d.Dial()
	step(t, l, func() bool {
		if x == nil && err == nil {
			x, _, err = d.Next()
		}
		if y == nil {
			y, _, _ = ln.Next()
		}
		if x != nil && y == nil {
			x.Recv() // in TLS 1.3 a client learns with the first thing it reads that it is refused
			err = x.Err()
		}
		return x != nil && y != nil || err != nil
	})
	return x, y, err
}

// Of the machines that are trusted only the volume's peer gets in, once it is known which that is; whoever pairs
// by a token becomes it. Each end knows the other one's key.
func TestOnlyThePeer(t *testing.T) {
	a, b := paired(t)
	other := newMachine(t)
	if err := errors.Join(other.trust.Add("b", b.key.Fingerprint()), b.trust.Add("other", other.key.Fingerprint())); err != nil {
		t.Fatal(err)
	}
	onLoop(t, func(l *uring.Loop) {
		ln, err := NewListener(l, "127.0.0.1:0", b.key, b.trust, false)
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		// try says whether a machine that expects key gets in.
		try := func(what string, m machine, key string, want bool, says string) {
			t.Helper()
			x, y, err := visit(t, l, ln, m, key)
			if want != (y != nil) {
				t.Errorf("%s: it gets in %v (%v)", what, y != nil, err)
			}
			if err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", what, err)
			}
			if want && y != nil && (y.Key() != m.key.Fingerprint() || x.Key() != b.key.Fingerprint()) {
				t.Errorf("%s: the ends take each other for %s and %s", what, y.Key(), x.Key())
			}
			for _, c := range []*Conn{x, y} {
				if c != nil {
					c.Close()
					step(t, l, func() bool { return c.freed })
				}
			}
		}
		try("nobody is expected", a, "", true, "")
		try("nobody is expected", other, "", true, "")
		ln.Expect(a.key.Fingerprint())
		try("the peer", a, b.key.Fingerprint(), true, "")
		try("another trusted one", other, "", false, "tls")
		try("to the wrong machine", a, other.key.Fingerprint(), false, ErrOtherPeer.Error())
		paired := make(chan string, 1)
		ln.Paired(func(fp string) { paired <- fp })
		token, err := ln.Token(time.Minute)
		if err == nil {
			_, err = Pair(context.Background(), []string{ln.Addr().String()}, token, other.key, other.trust, "b")
		}
		if err != nil {
			t.Error(err)
			return
		}
		if fp := <-paired; fp != other.key.Fingerprint() {
			t.Errorf("paired with %s", fp)
		}
		try("the one that paired", other, "", true, "")
		try("the one before it", a, "", false, "tls")
		ln.Expect("")
		try("nobody is expected any more", a, "", true, "")
	})
}
