package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// memConn lets a tls.Conn be driven from the loop: after the hand-over Write appends to out and
// Read takes from in, and says that it would block when that is empty.
type memConn struct {
	net.Conn
	mem     bool
	in, out []byte

	// While the handshake lasts no more than one TLS record is read at a time: what comes behind
	// the last one may be plain.
	head [5]byte
	got  int // bytes of head
	left int // bytes of the record's body that are still to come
}

// record reads no further than the TLS record under way (RFC 8446, 5.1).
func (m *memConn) record(p []byte) (int, error) {
	if m.left == 0 && m.got == len(m.head) {
		m.got = 0
	}
	if m.got < len(m.head) {
		n, err := m.Conn.Read(p[:min(len(p), len(m.head)-m.got)])
		copy(m.head[m.got:], p[:n])
		if m.got += n; m.got == len(m.head) {
			m.left = int(m.head[3])<<8 | int(m.head[4])
		}
		return n, err
	}
	n, err := m.Conn.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// wouldBlock is temporary in the sense that crypto/tls keeps its state and can be asked again.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "link: more bytes are needed" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

var errWouldBlock error = wouldBlock{}

func (m *memConn) Read(p []byte) (int, error) {
	if !m.mem {
		return m.record(p)
	}
	if len(m.in) == 0 {
		return 0, errWouldBlock
	}
	n := copy(p, m.in)
	m.in = m.in[n:]
	return n, nil
}

func (m *memConn) Write(p []byte) (int, error) {
	if !m.mem {
		return m.Conn.Write(p)
	}
	if len(m.out)+len(p) > cap(m.out) {
		return 0, errors.New("out of room")
	}
	m.out = append(m.out, p...)
	return len(p), nil
}

// made is a connection that has shaken hands, on its way to the loop.
type made struct {
	fd      int
	peer    string
	addr    string // which of the dialer's addresses it is
	key     string // fingerprint of the other end's
	control bool
	tls     *tls.Conn
	mem     *memConn
	err     error
}

// handOver takes the socket away from Go's poller, as a blocking descriptor: an armed
// registration there would wake a thread for each packet.
func handOver(tcp *net.TCPConn, t *tls.Conn, m *memConn) (made, error) {
	peer := tcp.RemoteAddr().String()
	if err := t.SetDeadline(time.Time{}); err != nil {
		return made{}, errors.Join(err, tcp.Close())
	}
	f, err := tcp.File()
	if err != nil {
		return made{}, errors.Join(err, tcp.Close())
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	err = errors.Join(err, f.Close(), tcp.Close()) // Go's descriptors only: the duplicate keeps the socket
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return made{}, fmt.Errorf("link: hand over: %w", err)
	}
	st := t.ConnectionState()
	proto := st.NegotiatedProtocol
	key, _, _ := peerKey(st) // the handshake has checked it
	if proto == protoPlain {
		return made{fd: fd, peer: peer, key: key}, nil
	}
	m.mem = true
	return made{fd: fd, peer: peer, key: key, control: proto == protoControl, tls: t, mem: m}, nil
}

// tune sets what a replication socket wants: no delay, keep-alive, and an end to data that is
// not acknowledged.
func tune(tcp *net.TCPConn) {
	tcp.SetNoDelay(true)
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}

const userTimeout = 10 * time.Second
