package link

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

// plainPair gives one end of a socket pair as a connection, and the other one's descriptor.
func plainPair(t *testing.T, l *uring.Loop) (*Conn, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return nil, -1
	}
	c, err := NewPlain(l, p[0], "x")
	if err != nil {
		t.Error(err)
		return nil, -1
	}
	return c, p[1]
}
