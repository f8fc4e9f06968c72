package link

import (
	"errors"
	"testing"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/uring"
)

// Without encryption the keys are proven all the same, both ends must want it, and what is sent
// at once behind the handshake is not lost.
func TestPlainAfterTheHandshake(t *testing.T) {
	a, b := paired(t)
	stranger := newMachine(t)
	if err := stranger.trust.Add("b", b.key.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	onLoop(t, func(l *uring.Loop) {
		for _, server := range []bool{false, true} {
			ln, err := NewListener(l, "127.0.0.1:0", b.key, b.trust, server)
			if err != nil {
				t.Error(err)
				return
			}
			try := func(m machine, plain bool) (*Conn, error) {
				d := NewDialer(l, []string{ln.Addr().String()}, m.key, m.trust)
				d.Plain(plain)
				d.Dial()
				var c *Conn
				var err error
				step(t, l, func() bool { c, _, err = d.Next(); return c != nil || err != nil })
				d.Close()
				return c, err
			}
			if _, err := try(a, !server); !errors.Is(err, ErrEncryption) {
				t.Errorf("the server's choice is %v, the client's another: %v", server, err)
			}
			if !server {
				ln.Close()
				continue
			}
			if x, err := try(stranger, true); err == nil {
				// TLS 1.3 lets a client finish before the server has looked at its key: the server must cut.
				step(t, l, func() bool { x.Recv(); return x.Err() != nil })
				x.Close()
			}
			for range 20 {
				x, err := try(a, true)
				if err != nil {
					t.Error(err)
					return
				}
				x.Send(&wire.Frame{Kind: wire.Hello, Body: []byte("at once")})
				var y *Conn
				step(t, l, func() bool { y, _, _ = ln.Next(); return y != nil })
				if x.tls != nil || y.tls != nil {
					t.Error("it is encrypted")
				}
				got := ""
				step(t, l, func() bool {
					f, ok := y.Recv()
					if ok {
						got = string(f.Body)
					}
					return ok
				})
				if got != "at once" {
					t.Errorf("%q came", got)
				}
				x.Close()
				y.Close()
				step(t, l, func() bool { return x.freed && y.freed })
			}
			ln.Close()
		}
	})
}
