package link

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/uring"
)

// A session gets its control connection, over the data connection's path; that is lost and made anew
// while the session goes on.
func TestControlConnection(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		p, paths := twoPaths(t, l)
		defer func() {
			p.close()
			paths[0].close()
			paths[1].close()
		}()
		control := func(want bool) func() bool {
			return func() bool {
				return p.half[0].node.Status().Control == want && p.half[1].node.Status().Control == want
			}
		}
		p.until("in sync", p.inSync)
		for turn := range 4 {
			p.until("a control connection", control(true))
			// One that comes before the other end has noticed the last one's loss is refused, and made again.
			if n, other := int(paths[0].made.Load()), paths[1].made.Load(); n < turn+2 || n > 2*turn+3 || other != 0 {
				t.Errorf("%d and %d connections were made", n, other)
			}
			p.write(0, make([]byte, 4096))
			c := p.half[turn%2].net.control
			if len(c.all) > 128<<10 {
				t.Errorf("it has %d bytes of buffers", len(c.all))
			}
			in := c.BytesIn
			p.until("something comes over it", func() bool { return c.BytesIn > in })
			unix.Shutdown(int(c.fd), unix.SHUT_RDWR)
			p.until("it is lost", func() bool { return !p.half[0].node.Status().Control })
		}
		p.until("a control connection", control(true))
		if s := p.half[0].node.Status(); s.Sessions != 1 || s.RoundTripNanos == 0 {
			t.Errorf("%d sessions, a round trip of %d ns", s.Sessions, s.RoundTripNanos)
		}
		paths[0].lose(true)
		p.until("the session moves", func() bool { return p.half[0].node.Status().Sessions == 2 && control(true)() })
		if n := paths[1].made.Load(); n < 2 || n > 3 {
			t.Errorf("%d connections over the other path", n)
		}
	})
}

// Without encryption of the data, the control connection is encrypted all the same. It takes no large
// frames, and none is made over a path that the session has left.
func TestControlIsSmallAndEncrypted(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		d, ln, err := ends(l, a, b, true)
		if err != nil {
			t.Error(err)
			return
		}
		both := func() (x, y *Conn) {
			step(t, l, func() bool {
				for _, e := range []struct {
					end interface{ Next() (*Conn, bool, error) }
					c   **Conn
				}{{d, &x}, {ln, &y}} {
					c, control, err := e.end.Next()
					if err != nil {
						t.Error(err)
					}
					if c != nil {
						*e.c = c
						if encrypted := c.tls != nil; encrypted != control {
							t.Errorf("control %v, encrypted %v", control, encrypted)
						}
					}
				}
				return x != nil && y != nil || t.Failed()
			})
			return x, y
		}
		d.Dial()
		x, y := both()
		d.DialControl()
		u, v := both()
		if t.Failed() {
			return
		}
		if u.size != &controlSizes || v.size != &controlSizes || u.peer != x.peer || u.Send(&wire.Frame{Kind: wire.Segment, Body: make([]byte, 64<<10)}) {
			t.Error("it is not made for small frames to the same end")
		}
		f := wire.Frame{Kind: wire.Hello, Body: make([]byte, smallBody)}
		for n := range 100 {
			f.LSN = uint64(n)
			if !u.Send(&f) {
				t.Error("no room")
			}
			step(t, l, func() bool { g, ok := v.Recv(); return ok && g.LSN == f.LSN && len(g.Body) == smallBody })
		}
		head := make([]byte, wire.HeadBytes)
		wire.PutHead(head, &wire.Frame{Kind: wire.Hello, Body: make([]byte, smallBody+1)})
		u.seal(head)
		u.push()
		step(t, l, func() bool { v.Recv(); return v.Err() != nil })
		if !errors.Is(v.Err(), wire.ErrTooBig) {
			t.Error(v.Err())
		}
		d.DialControl()
		d.path = "127.0.0.1:1"
		step(t, l, func() bool { _, _, err = d.Next(); return err != nil })
		if !errors.Is(err, errMoved) {
			t.Error(err)
		}
		for _, c := range []*Conn{x, y, u, v} {
			c.Close()
			step(t, l, func() bool { return c.freed })
		}
		if err := errors.Join(d.Close(), ln.Close()); err != nil {
			t.Error(err)
		}
	})
}

// What the other machine has not taken yet is known: without it a connection over which nothing goes any
// more looks like one over which nothing is to go.
func TestAcknowledged(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		tcp, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer peer.Close()
		file, err := tcp.(*net.TCPConn).File()
		if err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Dup(int(file.Fd()))
		if err := errors.Join(err, file.Close(), tcp.Close(), unix.SetNonblock(fd, false)); err != nil {
			t.Error(err)
			return
		}
		c, err := NewPlain(l, fd, "c")
		if err != nil {
			t.Error(err)
			return
		}
		turn := func() {
			if _, err := l.Once(l.Now() + 1e6); err != nil {
				t.Error(err)
			}
		}
		sent := 0
		for refused := 0; refused < 50; turn() { // until both sockets are full
			if c.Send(&wire.Frame{Kind: wire.Segment, Body: make([]byte, 1<<20)}) {
				sent += wire.HeadBytes + 1<<20
			} else {
				refused++
			}
		}
		n, all := c.Acknowledged()
		if all || n == 0 || n >= uint64(sent) {
			t.Errorf("%d bytes of %d, all %v, although nobody reads", n, sent, all)
		}
		go func() {
			b := make([]byte, 1<<20)
			for left := sent; left > 0; {
				n, err := peer.Read(b)
				if err != nil {
					return
				}
				left -= n
			}
		}()
		step(t, l, func() bool { n, all = c.Acknowledged(); return all })
		if n != uint64(sent) {
			t.Errorf("%d bytes of %d", n, sent)
		}
		c.Close()
		step(t, l, func() bool { return c.freed })
	})
}

// However many strangers shake hands and never end, the machine that was here before gets in, with both of its
// connections, and with no more than that.
func TestKnownPeerHasPlaces(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		d, ln, err := ends(l, a, b, false)
		if err != nil {
			t.Error(err)
			return
		}
		addr := ln.Addr().String()
		var open []*Conn
		connect := func(control bool, dial func()) {
			dial()
			seen := 0
			step(t, l, func() bool {
				for _, next := range []func() (*Conn, bool, error){d.Next, ln.Next} {
					c, kind, err := next()
					if err != nil || c != nil && kind != control {
						t.Errorf("control %v instead of %v, %v", kind, control, err)
						return true
					}
					if c != nil {
						open = append(open, c)
						seen++
					}
				}
				return seen == 2
			})
		}
		connect(false, d.Dial)
		// Strangers come from other addresses, and say nothing.
		var strangers []net.Conn
		from := func(ip string) net.Conn {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
			c, err := dialer.DialContext(context.Background(), "tcp", addr)
			if err != nil {
				t.Error(err)
				return nil
			}
			strangers = append(strangers, c)
			return c
		}
		closed := func(c net.Conn) bool {
			c.SetReadDeadline(time.Now().Add(handshakeLimit / 2))
			_, err := c.Read(make([]byte, 1))
			return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
		}
		for range halfOpen {
			from("127.0.0.2")
		}
		if !closed(from("127.0.0.3")) {
			t.Error("there is room for everybody")
		}
		connect(false, d.Dial)
		connect(true, d.DialControl)
		// Its own places are two.
		for range ownSlots {
			from("127.0.0.1")
		}
		if !closed(from("127.0.0.1")) {
			t.Error("the peer may have any number of them")
		}
		for _, c := range strangers {
			c.Close()
		}
		for _, c := range open {
			c.Close()
			step(t, l, func() bool { return c.freed })
		}
		if err := errors.Join(d.Close(), ln.Close()); err != nil {
			t.Error(err)
		}
	})
}

// What waits for the loop is bounded, however often the peer connects.
func TestArrivalsAreBounded(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		d, ln, err := ends(l, a, b, false)
		if err != nil {
			t.Error(err)
			return
		}
		var open []*Conn
		for range 3 * arriving { // one after the other: the dialer's end is taken, the listener's waits
			d.Dial()
			step(t, l, func() bool {
				c, _, err := d.Next()
				if c != nil {
					open = append(open, c)
				}
				return c != nil || err != nil
			})
		}
		n := 0
		step(t, l, func() bool {
			ln.arrivals.mu.Lock()
			defer ln.arrivals.mu.Unlock()
			n = len(ln.q)
			closed := 0
			for _, c := range open {
				if c.Recv(); c.Err() != nil {
					closed++
				}
			}
			return closed == len(open)-arriving
		})
		if n != arriving {
			t.Errorf("%d wait", n)
		}
		for _, c := range open {
			c.Close()
			step(t, l, func() bool { return c.freed })
		}
		if err := errors.Join(d.Close(), ln.Close()); err != nil {
			t.Error(err)
		}
	})
}
