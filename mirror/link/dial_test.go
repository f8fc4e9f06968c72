package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

func TestAddresses(t *testing.T) {
	for _, x := range []struct{ text, want string }{
		{"backup:7789", "[backup:7789]"},
		{" 10.0.0.2:7789, [fd00::2]:7789 ,b-2.example.org.:1", "[10.0.0.2:7789 [fd00::2]:7789 b-2.example.org.:1]"},
		{"[fe80::1%eth0]:65535", "[[fe80::1%eth0]:65535]"},
		{"a_b:80", "[a_b:80]"},
	} {
		if got, err := ParseAddresses(x.text); err != nil || fmt.Sprint(got) != x.want {
			t.Errorf("%q: %v %v", x.text, got, err)
		}
	}
	for _, x := range []struct{ text, want string }{
		{"", "empty"},
		{"a:1,", "empty"},
		{"backup", "port is missing"},
		{"[fd00::2]", "port is missing"},
		{"fd00::2", "brackets"},
		{"fd00::2:7789", "brackets"},
		{"a:b:c", "brackets"},
		{":7789", "host is missing"},
		{"a:0", "from 1 to 65535"},
		{"a:65536", "from 1 to 65535"},
		{"a:http", "from 1 to 65535"},
		{"a:-1", "from 1 to 65535"},
		{"10.0.0.256:1", "no IPv4 address"},
		{"10.0.0:1", "no IPv4 address"},
		{"[backup]:1", "no IPv6 address"},
		{"-a:1", "no host's name"},
		{"a..b:1", "no host's name"},
		{"a b:1", "no host's name"},
		{strings.Repeat("a", 64) + ":1", "no host's name"},
		{"a:1,a:1", "twice"},
		{"a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1", "at most 8"},
	} {
		if got, err := ParseAddresses(x.text); err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, %v, want %q", x.text, got, err, x.want)
		}
	}
}

// refusing gives an address of this machine at which nobody listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silent gives an address that answers nothing: its queue of connections is full.
func silent(t *testing.T) (addr string, end func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return addr, func() { c.Close(); unix.Close(fd) }
}

// Addresses are tried in turn, the last good one first; one that is silent does not hold up the
// others for long, and what was wrong with each is said.
func TestDialAny(t *testing.T) {
	a, b := paired(t)
	stranger := newMachine(t)
	dead := refusing(t)
	quiet, end := silent(t)
	defer end()
	onLoop(t, func(l *uring.Loop) {
		ln, err := NewListener(l, "127.0.0.1:0", b.key, b.trust, false)
		if err != nil {
			t.Error(err)
			return
		}
		other, err := NewListener(l, "127.0.0.1:0", stranger.key, stranger.trust, false)
		if err != nil {
			t.Error(err)
			return
		}
		good, wrong := ln.Addr().String(), other.Addr().String()
		dial := func(d *Dialer) (addr string, err error) {
			d.Dial()
			var c *Conn
			step(t, l, func() bool { c, _, err = d.Next(); return c != nil || err != nil })
			if c != nil {
				addr = c.Address()
				c.Close()
				step(t, l, func() bool { return c.freed })
			}
			return addr, err
		}
		d := NewDialer(l, []string{dead, wrong, quiet, good}, a.key, a.trust)
		begun := time.Now()
		if got, err := dial(d); got != good || err != nil {
			t.Errorf("%q connected, %v", got, err)
		}
		if took := time.Since(begun); took < headStart || took > headStart+3*time.Second {
			t.Errorf("it took %v", took)
		}
		begun = time.Now()
		if got, err := dial(d); got != good || err != nil || time.Since(begun) > headStart {
			t.Errorf("the last good one: %q, %v, after %v", got, err, time.Since(begun))
		}
		d.SetAddresses([]string{dead, wrong, "no-such-host.invalid:1"})
		_, err = dial(d)
		if !errors.Is(err, ErrUntrusted) {
			t.Error(err)
		}
		for _, want := range []string{dead + ": connect: connection refused; ", wrong + ": ", "no-such-host.invalid:1: "} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: it does not say %q", err, want)
			}
		}
		// Pairing takes the way that works, too.
		token, err := ln.Token(time.Minute)
		if err != nil {
			t.Error(err)
		}
		if _, err := Pair(context.Background(), []string{dead, good}, token, stranger.key, stranger.trust, "b"); err != nil || !b.trust.Has(stranger.key.Fingerprint()) {
			t.Error("pair:", err)
		}
		// An attempt under way ends at once with the dialer.
		d.SetAddresses([]string{quiet})
		d.Dial()
		begun = time.Now()
		if err := errors.Join(d.Close(), ln.Close(), other.Close()); err != nil || time.Since(begun) > time.Second {
			t.Error(err, time.Since(begun))
		}
	})
}

// Losing one of two paths moves the session to the other one: the log goes on, nothing is copied anew.
func TestAPathIsLost(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		p, paths := twoPaths(t, l)
		defer func() {
			p.close()
			paths[0].close()
			paths[1].close()
		}()
		want := make([]byte, ramBytes)
		write := func(n int) {
			copy(want[n*8192:], fill(make([]byte, 8192), n))
			p.write(int64(n*8192), want[n*8192:][:8192])
		}
		using := func() string { return p.half[0].net.conn.Address() }
		p.until("in sync", p.inSync)
		write(0)
		for k, lost := range []int{0, 1, 0} {
			if using() != paths[lost].addr() {
				t.Fatalf("turn %d: the session goes over %s", k, using())
			}
			paths[lost].lose(true)
			p.until("it is noticed", func() bool { return !p.half[0].node.Status().Connected })
			write(3*k + 1)
			p.until("in sync again", p.inSync)
			if using() != paths[1-lost].addr() {
				t.Errorf("turn %d: the session goes over %s", k, using())
			}
			write(3*k + 2)
			paths[lost].lose(false)
		}
		p.same(want)
		n := 0
		for _, e := range p.half[0].events {
			if strings.Contains(e, "full sync: running→complete") {
				n++
			}
			if strings.Contains(e, "in sync→degraded") || strings.Contains(e, "suspended→degraded") {
				t.Error(e)
			}
		}
		if n != 1 || p.half[0].node.Status().Sessions != 4 {
			t.Errorf("%d full syncs, %d sessions:\n%s", n, p.half[0].node.Status().Sessions, strings.Join(p.half[0].events, "\n"))
		}
	})
}
