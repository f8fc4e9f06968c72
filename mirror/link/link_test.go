package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/uring"
)

type machine struct {
	key   *Key
	trust *Trust
}

func newMachine(t *testing.T) machine {
	t.Helper()
	d := t.TempDir()
	k, err := LoadOrCreateKey(filepath.Join(d, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(filepath.Join(d, "key.pem"))
	if err != nil || again.Fingerprint() != k.Fingerprint() {
		t.Fatal("the key changed", err)
	}
	tr, err := OpenTrust(filepath.Join(d, "trusted.json"))
	if err != nil {
		t.Fatal(err)
	}
	return machine{k, tr}
}

// paired gives two machines that trust each other.
func paired(t *testing.T) (a, b machine) {
	t.Helper()
	a, b = newMachine(t), newMachine(t)
	if err := errors.Join(a.trust.Add("b", b.key.Fingerprint()), b.trust.Add("a", a.key.Fingerprint())); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// ends are a dialer of machine a's and the listener of b's that it dials; plain: without encryption of data.
func ends(l *uring.Loop, a, b machine, plain bool) (*Dialer, *Listener, error) {
	ln, err := NewListener(l, "127.0.0.1:0", b.key, b.trust, plain)
	if err != nil {
		return nil, nil, err
	}
	d := NewDialer(l, []string{ln.Addr().String()}, a.key, a.trust)
	d.Plain(plain)
	return d, ln, nil
}

// onLoop runs f with a loop of its own.
func onLoop(t *testing.T, f func(l *uring.Loop)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err := uring.NewLoop(uring.LoopOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		f(l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	<-done
}

// step drives the loop until ok, a while at most.
func step(t *testing.T, l *uring.Loop, ok func() bool) {
	t.Helper()
	end := l.Now() + 20e9
	for !ok() {
		if _, err := l.Once(l.Now() + 100e6); err != nil || l.Now() > end {
			t.Errorf("it never happened (%v)", err)
			return
		}
	}
}

// connect gives both ends of a connection between two machines, on one loop.
func connect(t *testing.T, l *uring.Loop, a, b machine) (x, y *Conn, end func()) {
	t.Helper()
	ln, err := NewListener(l, "127.0.0.1:0", b.key, b.trust, false)
	if err != nil {
		t.Error(err)
		return
	}
	d := NewDialer(l, []string{ln.Addr().String()}, a.key, a.trust)
	d.Dial()
	step(t, l, func() bool {
		if x == nil {
			if x, _, err = d.Next(); err != nil {
				t.Error(err)
			}
		}
		if y == nil {
			y, _, _ = ln.Next()
		}
		return x != nil && y != nil || err != nil
	})
	return x, y, func() {
		x.Close()
		y.Close()
		step(t, l, func() bool { return x.freed && y.freed })
		if err := errors.Join(d.Close(), ln.Close()); err != nil {
			t.Error(err)
		}
	}
}

// Frames of all sizes cross both ways at once, in order, whole, over TLS.
func TestFrames(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		x, y, end := connect(t, l, a, b)
		if x == nil || y == nil {
			return
		}
		defer end()
		r := rand.New(rand.NewPCG(1, 1))
		body := make([]byte, wire.MaxBody)
		for i := range body {
			body[i] = byte(r.Uint32())
		}
		sizes := []int{0, 1, 100, 4096, 70000, wire.MaxBody, 0, 12345, 1 << 20, wire.MaxBody, 7}
		for k := range 40 {
			sizes = append(sizes, r.IntN(1<<(k%20)+1))
		}
		var sent, got [2]int
		ends := [2]*Conn{x, y}
		full := false
		step(t, l, func() bool {
			for i, c := range ends {
				for sent[i] < len(sizes) {
					f := wire.Frame{Kind: wire.Segment, LSN: uint64(sent[i]), Body: body[:sizes[sent[i]]]}
					if !c.Send(&f) {
						full = true
						break
					}
					sent[i]++
				}
				for {
					f, ok := c.Recv()
					if !ok {
						break
					}
					if f.LSN != uint64(got[i]) || !bytes.Equal(f.Body, body[:sizes[got[i]]]) {
						t.Errorf("end %d: frame %d came as %d with %d bytes", i, got[i], f.LSN, len(f.Body))
					}
					got[i]++
				}
				if err := c.Err(); err != nil {
					t.Error(err)
					return true
				}
			}
			return got[0] == len(sizes) && got[1] == len(sizes)
		})
		if !full {
			t.Error("there was always room: nothing was held back")
		}
	})
}

// The other end's death is noticed after everything that came before it was read.
func TestPeerDies(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		x, y, end := connect(t, l, a, b)
		if x == nil || y == nil {
			return
		}
		defer end()
		x.Send(&wire.Frame{Kind: wire.Heartbeat, LSN: 5})
		x.Close()
		read := false
		step(t, l, func() bool {
			if f, ok := y.Recv(); ok && f.LSN == 5 {
				read = true
			}
			return y.Err() != nil
		})
		if !read {
			t.Error("the last frame was lost")
		}
	})
}

func TestUntrustedKeysAreRefused(t *testing.T) {
	a, b := paired(t)
	stranger := newMachine(t)
	if err := stranger.trust.Add("b", b.key.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	onLoop(t, func(l *uring.Loop) {
		ln, err := NewListener(l, "127.0.0.1:0", b.key, b.trust, false)
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		addr := ln.Addr().String()
		// A client that is not trusted: in TLS 1.3 it learns so with the first thing it reads.
		d := NewDialer(l, []string{addr}, stranger.key, stranger.trust)
		d.Dial()
		var c *Conn
		step(t, l, func() bool { c, _, err = d.Next(); return c != nil || err != nil })
		if c != nil {
			step(t, l, func() bool { c.Recv(); return c.Err() != nil })
			if !strings.Contains(c.Err().Error(), "tls") {
				t.Error(c.Err())
			}
			c.Close()
			step(t, l, func() bool { return c.freed })
		}
		d.Close()
		// A server that is not trusted.
		other := newMachine(t)
		d = NewDialer(l, []string{addr}, a.key, other.trust)
		d.Dial()
		step(t, l, func() bool { c, _, err = d.Next(); return c != nil || err != nil })
		if !errors.Is(err, ErrUntrusted) {
			t.Error(err)
		}
		d.Close()
		for _, max := range []uint16{tls.VersionTLS12} {
			cfg := config(a.key, []string{protoSession}, pinned(a.trust))
			cfg.MinVersion, cfg.MaxVersion = max, max
			if k, err := tls.Dial("tcp", addr, cfg); err == nil {
				k.Close()
				t.Error("TLS 1.2 was spoken")
			}
		}
		plain, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		b := make([]byte, wire.HeadBytes)
		wire.PutHead(b, &wire.Frame{Kind: wire.Hello})
		plain.Write(b)
		plain.SetReadDeadline(time.Now().Add(handshakeLimit))
		n, err := plain.Read(make([]byte, 4096))
		for err == nil { // an alert, then the end
			n, err = plain.Read(make([]byte, 4096))
		}
		if errors.Is(err, context.DeadlineExceeded) || n != 0 {
			t.Error("a plain client was kept", n, err)
		}
		plain.Close()
		if got, _, err := ln.Next(); got != nil || err != nil {
			t.Error("one of them got in", got, err)
		}
	})
}

func TestPairing(t *testing.T) {
	client, server, other := newMachine(t), newMachine(t), newMachine(t)
	onLoop(t, func(l *uring.Loop) {
		ln, err := NewListener(l, "127.0.0.1:0", server.key, server.trust, false)
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		wrong, err := NewListener(l, "127.0.0.1:0", other.key, other.trust, false)
		if err != nil {
			t.Error(err)
			return
		}
		defer wrong.Close()
		addr, ctx := ln.Addr().String(), context.Background()
		pair := func(addr, token string) error {
			_, err := Pair(ctx, []string{addr}, token, client.key, client.trust, "server")
			return err
		}
		token, err := ln.Token(time.Minute)
		if err != nil {
			t.Error(err)
			return
		}
		if err := pair(addr, "hello"); !errors.Is(err, ErrToken) {
			t.Error("nonsense:", err)
		}
		if err := pair(wrong.Addr().String(), token); !errors.Is(err, ErrWrongServer) {
			t.Error("wrong server:", err)
		}
		if err := pair(addr, token); err != nil {
			t.Error("pair:", err)
		}
		if !client.trust.Has(server.key.Fingerprint()) || !server.trust.Has(client.key.Fingerprint()) {
			t.Error("the keys were not exchanged")
		}
		if err := pair(addr, token); !errors.Is(err, ErrTokenUsed) {
			t.Error("used twice:", err)
		}
		token, _ = ln.Token(time.Minute)
		ln.tokens.mu.Lock()
		ln.tokens.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
		ln.tokens.mu.Unlock()
		if err := pair(addr, token); !errors.Is(err, ErrTokenUsed) {
			t.Error("expired:", err)
		}
		x, y, end := connect(t, l, client, server)
		if x != nil && y != nil {
			end()
		}
	})
}

// A damaged byte is noticed without encryption too; nothing allocates per frame.
func TestPlain(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		x, fd := plainPair(t, l)
		if x == nil {
			return
		}
		y, err := NewPlain(l, fd, "y")
		if err != nil {
			t.Error(err)
			return
		}
		body := make([]byte, 4096)
		f := wire.Frame{Kind: wire.Segment, Body: body}
		if n := testing.AllocsPerRun(300, func() {
			x.Send(&f)
			for {
				if _, ok := y.Recv(); ok {
					break
				}
				if _, err := l.Once(l.Now() + 1e9); err != nil {
					t.Error(err)
				}
			}
		}); n != 0 {
			t.Errorf("%v allocations per frame", n)
		}
		b := make([]byte, wire.HeadBytes+4096)
		wire.PutHead(b, &f)
		b[wire.HeadBytes+9] ^= 1
		x.filling = append(x.filling, b...)
		x.push()
		step(t, l, func() bool { y.Recv(); return y.Err() != nil })
		if !errors.Is(y.Err(), wire.ErrCRC) {
			t.Error(y.Err())
		}
		x.Close()
		y.Close()
		step(t, l, func() bool { return x.freed && y.freed })
	})
}

// What TLS allocates for each 4-KiB frame is counted and said; it is Go's own crypto/tls, so it
// is no failure, but it must not grow with what is sent.
func TestTLSAllocations(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		x, y, end := connect(t, l, a, b)
		if t.Failed() {
			return
		}
		defer end()
		f := &wire.Frame{Kind: wire.Segment, Body: make([]byte, 4608)}
		cross := func(n int) {
			for range n {
				if !x.Send(f) {
					t.Error("the connection is full")
				}
				got := false
				step(t, l, func() bool { _, ok := y.Recv(); got = got || ok; return got })
			}
		}
		cross(200)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const n = 2000
		cross(n)
		runtime.ReadMemStats(&after)
		per := float64(after.Mallocs-before.Mallocs) / n
		t.Logf("%.2f allocations, %.0f bytes a 4-KiB frame, both ends", per, float64(after.TotalAlloc-before.TotalAlloc)/n)
		if per > 8 {
			t.Errorf("%.1f allocations a frame", per)
		}
	})
}
