package link

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/uring"
)

const (
	recvBytes  = 256 << 10
	smallBody  = 4 << 10   // frames up to that size that carry no data may use the reserved room
	reserve    = 128 << 10 // of a data connection's out buffer, for acknowledgements and heartbeats
	perRecord  = 64        // more than TLS adds to a record of at most 16 KiB
	recordSize = 16 << 10
	sureBytes  = 32 << 10 // a socket that has been answered lately takes as many at once
)

// sizes are those of a connection's buffers, in bytes.
type sizes struct {
	body    int // of the largest frame
	recv    int
	out     int
	reserve int // of out
	in      int
	joined  int // a small frame, head and body
}

// room is how much of in a RECV and the rest of an earlier one may decrypt to.
func (s *sizes) room() int { return s.recv + recordSize }

var (
	dataSizes = sizes{body: wire.MaxBody, recv: recvBytes, reserve: reserve, joined: 64 << 10,
		out: wire.MaxBody + wire.HeadBytes + (wire.MaxBody/recordSize+4)*perRecord + reserve,
		in:  wire.MaxBody + wire.HeadBytes + 2*recvBytes}
	controlSizes = sizes{body: smallBody, recv: smallBody, joined: 2 * smallBody, out: 4 * smallBody, in: 2*smallBody + 2*(smallBody+recordSize)}
)

// sealer turns plain bytes into what goes over the wire; nil where nothing is sealed.
type sealer interface {
	io.ReadWriter
}

// Conn is one connection on the loop's ring: one SEND in flight and one armed RECV. Loop only.
type Conn struct {
	loop *uring.Loop
	id   uint64
	fd   int32
	peer string
	addr string
	key  string
	tls  sealer
	mem  *memConn
	size *sizes

	filling, flying []byte // what is sent next, and what is being sent
	sent            int    // of flying
	sending         bool
	joined          []byte // head and body of a small frame, one record

	raw    []byte // RECV's buffer where what comes is decrypted; else it is in
	armed  bool
	in     []byte // plain bytes that came
	r, w   int    // unread part of in
	used   int    // of the frame that the last Recv gave
	eof    bool
	err    error
	closed bool
	freed  bool
	all    []byte

	// TLS records that were sealed and opened with the connection's keys.
	sealed, opened uint64
	wear           wear

	later bool // Queue is called before the next enter
	asked bool // that is to arm

	before, since int // bytes sent between the last two RECVs, and after the last one

	// BytesIn and BytesOut count what went over the wire.
	BytesIn, BytesOut uint64
}

// Operations in the low bits of user data.
const (
	opSend = 1
	opRecv = 2
)

// wear is how many TLS records the keys of one direction may be used for. AES-GCM keeps its margin of safety for
// 2^24.5 full-sized ones (RFC 8446, 5.5), and crypto/tls, which would take a key update, never starts one.
type wear struct {
	fresh uint64 // from so many on the connection is worn
	most  uint64 // more are not sealed
}

var tlsWear = wear{fresh: 15 << 20, most: 1 << 24}

// newConn takes over a blocking socket descriptor; t and m are nil for a plain connection.
func newConn(l *uring.Loop, fd int, peer string, t sealer, m *memConn, size *sizes) (*Conn, error) {
	total := 2*size.out + size.joined + size.recv + size.in
	all, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	c := &Conn{loop: l, fd: int32(fd), peer: peer, tls: t, mem: m, size: size, wear: tlsWear, all: all}
	cut := func(n int) []byte { b := all[:n:n]; all = all[n:]; return b }
	c.filling, c.flying = cut(size.out)[:0], cut(size.out)[:0]
	c.joined, c.raw, c.in = cut(size.joined), cut(size.recv), cut(size.in)
	c.id = l.Add(c)
	c.arm()
	return c, nil
}

// NewPlain makes a connection without encryption, for tests and benchmarks. It owns fd.
func NewPlain(l *uring.Loop, fd int, peer string) (*Conn, error) {
	return newConn(l, fd, peer, nil, nil, &dataSizes)
}

// Peer names the other end.
func (c *Conn) Peer() string { return c.peer }

// Address is which of the dialer's addresses was dialed; "" for a connection that was accepted.
func (c *Conn) Address() string { return c.addr }

// Key is the fingerprint of the other end's key; "" for a connection without one.
func (c *Conn) Key() string { return c.key }

// Received counts the bytes that came over the wire.
func (c *Conn) Received() uint64 { return c.BytesIn }

// Worn reports whether its keys have been used so often that a new connection, with fresh ones, should take its
// place. False for a plain one.
func (c *Conn) Worn() bool { return max(c.sealed, c.opened) >= c.wear.fresh }

// Acknowledged counts the bytes that went over the wire and that the other machine's kernel has, and
// reports whether that is all that was sent. It asks the kernel.
func (c *Conn) Acknowledged() (bytes uint64, all bool) {
	left := 0
	if !c.freed {
		if n, err := unix.IoctlGetInt(int(c.fd), unix.SIOCOUTQ); err == nil { // TCP: not acknowledged, tcp(7)
			left = n
		}
	}
	return c.BytesOut - min(uint64(left), c.BytesOut), left == 0 && len(c.filling) == 0 && c.sent == len(c.flying)
}

// Err is why the connection is dead, once everything that came before was read, or nil.
func (c *Conn) Err() error {
	if c.err != nil && c.whole() && !c.closed {
		return nil
	}
	return c.err
}

// whole reports whether an unread frame lies in the buffer.
func (c *Conn) whole() bool {
	at := c.r + c.used
	if c.w-at < wire.HeadBytes {
		return false
	}
	_, n, err := wire.ParseHead(c.in[at:])
	return err == nil && c.w-at >= wire.HeadBytes+n
}

func (c *Conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// Send queues a copy of the frame; false: there is no room now.
func (c *Conn) Send(f *wire.Frame) bool {
	if c.err != nil || c.closed {
		return true // Err says it; what is sent now would not arrive
	}
	n := wire.HeadBytes + len(f.Body)
	need := n
	if c.tls != nil {
		need += (n/recordSize + 2) * perRecord
	}
	limit := cap(c.filling) - c.size.reserve
	if len(f.Body) <= smallBody && !f.Kind.IsData() {
		limit = cap(c.filling)
	}
	if len(c.filling)+need > limit {
		return false
	}
	switch {
	case c.tls == nil:
		at := len(c.filling)
		c.filling = c.filling[:at+n]
		wire.PutHead(c.filling[at:], f)
		copy(c.filling[at+wire.HeadBytes:], f.Body)
	case n <= len(c.joined):
		wire.PutHead(c.joined, f)
		copy(c.joined[wire.HeadBytes:], f.Body)
		c.seal(c.joined[:n])
	default:
		wire.PutHead(c.joined, f)
		c.seal(c.joined[:wire.HeadBytes])
		c.seal(f.Body)
	}
	c.behind()
	return true
}

// behind has what is sent, and the RECV, follow all else that this batch does: many small frames then go in one SEND,
// and nobody waits for a RECV to be made ready.
func (c *Conn) behind() {
	if !c.later {
		c.later = true
		c.loop.Later(c)
	}
}

// Queue queues them.
func (c *Conn) Queue() {
	c.later = false
	if c.freed {
		return
	}
	if c.err == nil {
		c.push()
	}
	if c.asked {
		c.asked = false
		c.arm()
	}
}

// seal appends b, encrypted, to what is sent next.
func (c *Conn) seal(b []byte) {
	if c.sealed += uint64(len(b)+recordSize-1) / recordSize; c.sealed > c.wear.most {
		c.fail(errWornOut)
		return
	}
	c.mem.out = c.filling
	_, err := c.tls.Write(b)
	c.filling = c.mem.out
	if err != nil {
		c.fail(fmt.Errorf("link: seal: %w", err))
	}
}

// errWornOut ends a connection that nothing has replaced in time.
var errWornOut = errors.New("link: the connection's keys are worn out, and no new connection could be made")

// push starts a SEND when none is in flight.
func (c *Conn) push() {
	if c.sending || len(c.filling) == 0 && c.sent == len(c.flying) {
		return
	}
	if c.sent == len(c.flying) {
		c.flying, c.filling, c.sent = c.filling, c.flying[:0], 0
	}
	e := c.loop.Get()
	e.PrepSend(c.fd, c.flying[c.sent:], unix.MSG_NOSIGNAL)
	e.UserData = c.id | opSend
	c.sending = true
	c.since += len(c.flying) - c.sent
	c.loop.Inline(c.before+c.since <= sureBytes)
}

// arm waits for bytes, when what they decrypt to has room for sure; what is unread is moved to make some.
func (c *Conn) arm() {
	if c.armed || c.closed || c.eof || c.err != nil {
		return
	}
	if len(c.in)-c.w < c.size.room() {
		c.r, c.w = 0, copy(c.in, c.in[c.r:c.w])
	}
	b := c.raw
	if c.tls == nil {
		b = c.in[c.w:]
	}
	e := c.loop.Get()
	e.PrepRecv(c.fd, b, 0)
	e.Ioprio = uring.RecvPollFirst
	e.UserData = c.id | opRecv
	c.armed = true
}

// Handle takes the end of a SEND or RECV.
func (c *Conn) Handle(q uring.CQE, _ int64) {
	switch q.UserData & 0xff {
	case opSend:
		c.sending = false
		switch {
		case q.Res > 0:
			c.sent += int(q.Res)
			c.BytesOut += uint64(q.Res)
		case q.Res != -int32(unix.EAGAIN) && q.Res != -int32(unix.EINTR):
			c.fail(fmt.Errorf("link: send: %w", unix.Errno(-q.Res)))
		}
		if c.err == nil {
			c.behind()
		}
	case opRecv:
		c.armed = false
		switch {
		case q.Res > 0:
			c.BytesIn += uint64(q.Res)
			c.before, c.since = c.since, 0
			c.open(int(q.Res))
		case q.Res == 0:
			c.eof = true
			c.fail(errors.New("the peer closed the connection"))
		case q.Res != -int32(unix.EAGAIN) && q.Res != -int32(unix.EINTR):
			c.fail(fmt.Errorf("link: receive: %w", unix.Errno(-q.Res)))
		}
	}
	c.finish()
}

// open takes n bytes that came to the end of in, decrypted.
func (c *Conn) open(n int) {
	if c.tls == nil {
		c.w += n
		return
	}
	c.mem.in = c.raw[:n]
	for c.w < len(c.in) { // with no room left, Read would give nothing for ever
		n, err := c.tls.Read(c.in[c.w:])
		c.w += n
		if err == errWouldBlock {
			return
		}
		c.opened++ // Read gives no more than one record's bytes
		if err != nil {
			c.fail(fmt.Errorf("link: %w", err))
			return
		}
	}
	c.fail(errors.New("link: more came than a RECV can bring"))
}

// Recv gives the next frame, in the order sent; its body is valid until the next Recv.
func (c *Conn) Recv() (f wire.Frame, ok bool) {
	c.r += c.used
	c.used = 0
	if c.closed {
		return f, false
	}
	if c.r == c.w && !c.armed {
		c.r, c.w = 0, 0
	}
	if c.w-c.r >= wire.HeadBytes {
		head := c.in[c.r : c.r+wire.HeadBytes]
		g, n, err := wire.ParseHead(head)
		if err != nil {
			c.fail(err)
			return f, false
		}
		if n > c.size.body {
			c.fail(fmt.Errorf("%w: %d bytes on a connection for small ones", wire.ErrTooBig, n))
			return f, false
		}
		if c.w-c.r >= wire.HeadBytes+n {
			body := c.in[c.r+wire.HeadBytes : c.r+wire.HeadBytes+n]
			if err := wire.CheckBody(head, body); err != nil {
				c.r = c.w
				c.fail(err)
				return f, false
			}
			g.Body = body
			c.used = wire.HeadBytes + n
			return g, true
		}
	}
	if !c.armed {
		c.asked = true
		c.behind()
	}
	return f, false
}

// Close cuts the connection after what was queued has gone; buffers are freed when the ring
// has returned them.
func (c *Conn) Close() error {
	if !c.closed {
		if c.err == nil {
			c.push()
		}
		c.closed = true
		c.fail(errors.New("closed"))
		c.finish()
	}
	return nil
}

// finish cuts and frees a closed connection as far as the ring allows.
func (c *Conn) finish() {
	if !c.closed || c.freed || c.sending {
		return
	}
	if c.armed {
		unix.Shutdown(int(c.fd), unix.SHUT_RDWR) // the RECV then ends
		return
	}
	c.freed = true
	c.loop.Release(c.id) // nothing is in flight any more
	unix.Close(int(c.fd))
	unix.Munmap(c.all)
	c.filling, c.flying, c.in, c.raw, c.joined = nil, nil, nil, nil, nil
}
