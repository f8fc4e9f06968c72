package e2e

import (
	"io"
	"net"
	"testing"
)

// The recording proxy must find a marker split over writes, and a cut must cut.
func TestProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	p, err := NewProxy("127.0.0.1:0", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Watch([]byte("needle"))
	echo := func(s string) error {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			return err
		}
		defer c.Close()
		for _, b := range []byte(s) {
			if _, err := c.Write([]byte{b}); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := echo("hay hay"); err != nil {
		t.Fatal(err)
	}
	if seen, _ := p.Seen(); seen {
		t.Fatal("found what was not there")
	}
	if err := echo("a needle"); err != nil {
		t.Fatal(err)
	}
	if seen, n := p.Seen(); !seen || n == 0 {
		t.Fatal("missed the marker")
	}
	p.Cut()
	if echo("x") == nil {
		t.Fatal("a cut link carried a byte")
	}
	p.Restore()
	if err := echo("x"); err != nil {
		t.Fatal(err)
	}
}
