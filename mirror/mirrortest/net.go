package mirrortest

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// Net is a simulated network between two machines, 0 and 1. Side 1 listens, side 0 dials.
type Net struct {
	W      *blktest.World
	MaxNs  int64                         // longest delay
	Cut    [2]bool                       // frames from that side do not get through: a one-way partition
	Half   [2][2]bool                    // the same for one kind of connections: data, control
	Refuse [2]bool                       // attempts at connections of that kind fail
	Deaf   bool                          // attempts come to nothing
	Ways   int                           // of which Paths tells; 0: one
	Room   int                           // frames that fit a connection
	Rate   int64                         // bytes a second that a connection carries each way; 0: no bound
	Wear   int                           // frames, both ways, from which on a connection is worn; 0: it never is
	Tap    func(from int, f *wire.Frame) // sees each frame that is sent, if set

	Lacks      uint64                        // features that no hello offers: those of an older version's peer
	TapControl func(from int, f *wire.Frame) // sees those on control connections in its place, if set

	sides  [2]*Side
	Frames int
}

// Side is one machine's end of the network.
type Side struct {
	net  *Net
	num  int
	next []arrival
	up   bool
	live [2]*Conn // data, control
}

// Kinds of connections.
const (
	Data = iota
	Control
)

// arrival is a connection that was made or accepted, or an attempt's error.
type arrival struct {
	c    *Conn
	kind int
	err  error
}

// NewNet makes a network whose frames take up to maxNs.
func NewNet(w *blktest.World, maxNs int64) *Net {
	n := &Net{W: w, MaxNs: maxNs, Room: 16}
	for i := range n.sides {
		n.sides[i] = &Side{net: n, num: i}
	}
	return n
}

// Start gives machine i a fresh end, as after a start of its server.
func (n *Net) Start(i int) *Side {
	n.Stop(i)
	n.sides[i] = &Side{net: n, num: i, up: true}
	return n.sides[i]
}

// Stop takes machine i off the network; its peer notices by a reset.
func (n *Net) Stop(i int) {
	s := n.sides[i]
	s.up = false
	for _, c := range s.live {
		if c != nil {
			c.fail(errors.New("reset by peer"))
		}
	}
}

// Break ends the connection of a kind that there is, both ends noticing at times of their own.
func (n *Net) Break(kind int) {
	for _, s := range n.sides {
		if c := s.live[kind]; c != nil {
			n.W.After(1+n.W.Rand.Int64N(n.MaxNs), func() { c.err = errors.New("connection reset") })
		}
	}
}

// Dial makes a data connection after a while, unless nobody listens or the way is cut.
func (s *Side) Dial() { s.dial(Data) }

// DialControl makes a control connection.
func (s *Side) DialControl() { s.dial(Control) }

// Paths is the net's Ways, on the side that dials.
func (s *Side) Paths() int {
	if s.num == 1 {
		return 0
	}
	return max(s.net.Ways, 1)
}

func (s *Side) dial(kind int) {
	n := s.net
	if s.num == 1 || n.Deaf {
		return
	}
	n.W.After(1+n.W.Rand.Int64N(n.MaxNs), func() {
		peer := n.sides[1]
		if !s.up {
			return
		}
		if !peer.up || n.cut(0, kind) || n.cut(1, kind) || n.Refuse[kind] {
			s.next = append(s.next, arrival{kind: kind, err: errors.New("connection refused")})
			return
		}
		a := n.connect(kind)
		s.live[kind], peer.live[kind] = a, a.peer
		s.next, peer.next = append(s.next, arrival{c: a, kind: kind}), append(peer.next, arrival{c: a.peer, kind: kind})
	})
}

func (n *Net) connect(kind int) *Conn {
	a, b := &Conn{n: n, from: 0, kind: kind}, &Conn{n: n, from: 1, kind: kind}
	a.peer, b.peer = b, a
	return a
}

// Visit gives the dialing end of a connection that side 1 accepts, beside those that side 0 makes.
func (n *Net) Visit(kind int) *Conn {
	a := n.connect(kind)
	n.sides[1].next = append(n.sides[1].next, arrival{c: a.peer, kind: kind})
	return a
}

func (n *Net) cut(from, kind int) bool { return n.Cut[from] || n.Half[from][kind] }

// Next gives what has happened.
func (s *Side) Next() (mirror.Conn, bool, error) {
	if len(s.next) == 0 {
		return nil, false, nil
	}
	x := s.next[0]
	s.next = s.next[1:]
	if x.err != nil {
		return nil, x.kind == Control, x.err
	}
	return x.c, x.kind == Control, nil
}

// Conn is one end of a simulated connection: ordered, delayed, bounded. Others are no faster or slower for it.
type Conn struct {
	n      *Net
	from   int
	kind   int
	peer   *Conn
	in     []wire.Frame
	pipe   []packet
	flying int   // frames
	last   int64 // when the newest packet arrives
	free   int64 // when it has been sent
	came   uint64
	sent   uint64
	acked  uint64 // of sent, as far as the peer's machine could say so
	worn   int    // frames sent and taken
	err    error
	closed bool
}

// packet is a part of a frame, with which the frame arrives or not yet, or the end.
type packet struct {
	f     wire.Frame
	whole bool
	bytes int
	end   bool
}

// packetBytes is the size of the parts that frames are sent in where that takes time.
const packetBytes = 1448

// Peer names the other end.
func (c *Conn) Peer() string { return fmt.Sprintf("sim%d", 1-c.from) }

// Key is none: nothing is proven here.
func (c *Conn) Key() string { return "" }

// TCP is not known: there is no socket.
func (c *Conn) TCP() (t wire.TCP, ok bool) { return t, false }

// Err is why the connection is dead, once everything that arrived was read.
func (c *Conn) Err() error { return c.err }

func (c *Conn) fail(err error) {
	p := c.peer
	c.n.W.After(1+c.n.W.Rand.Int64N(c.n.MaxNs), func() {
		if p.err == nil {
			p.err = err
		}
	})
}

var errClosed = errors.New("closed by peer")

// Close cuts the connection, as TCP does: behind what was sent, unless something that came was not read.
func (c *Conn) Close() error {
	switch {
	case c.closed:
	case len(c.in) > 0:
		c.fail(errClosed)
	default:
		c.put(packet{end: true})
	}
	c.closed = true
	return nil
}

// put sends a packet behind those that were sent before.
func (c *Conn) put(p packet) {
	w := c.n.W
	c.last = max(c.last, max(c.free, w.Now)+1+w.Rand.Int64N(c.n.MaxNs)) + 1
	c.pipe = append(c.pipe, p)
	w.After(c.last-w.Now, c.deliver)
}

// Send queues a copy.
func (c *Conn) Send(f *wire.Frame) bool {
	if c.closed || c.err != nil {
		return true // into the void, as a socket does
	}
	if c.flying+len(c.peer.in) >= c.n.Room && f.Kind != wire.Heartbeat && f.Kind != wire.Ack {
		return false
	}
	n := c.n
	g := *f
	g.Body = append([]byte(nil), f.Body...)
	if n.Lacks != 0 && f.Kind == wire.Hello {
		if h, err := wire.DecodeHello(f.Body); err == nil {
			h.Offered &^= n.Lacks
			h.Staging = h.Staging && n.Lacks&wire.FeatureStage == 0
			g.Body = h.Encode()
		}
	}
	n.Frames++
	c.worn++
	switch {
	case c.kind == Control && n.TapControl != nil:
		n.TapControl(c.from, f)
	case n.Tap != nil:
		n.Tap(c.from, f)
	}
	c.flying++
	left := wire.HeadBytes + len(f.Body)
	c.sent += uint64(left)
	for left > 0 {
		part := left
		if n.Rate > 0 {
			part = min(left, packetBytes)
			c.free = max(c.free, n.W.Now) + int64(part)*1e9/n.Rate
		}
		left -= part
		c.put(packet{f: g, whole: left == 0, bytes: part})
	}
	return true
}

// deliver brings the oldest packet to the other end; while the way is cut it is sent again and
// again, as TCP does.
func (c *Conn) deliver() {
	n := c.n
	if n.cut(c.from, c.kind) && !c.peer.closed && c.peer.err == nil {
		n.W.After(n.MaxNs, c.deliver)
		return
	}
	p := c.pipe[0]
	c.pipe = c.pipe[1:]
	if !c.peer.closed && c.peer.err == nil {
		c.peer.came += uint64(p.bytes)
		if p.end {
			c.peer.err = errClosed
		}
	}
	if !p.whole {
		return
	}
	g := p.f
	c.flying--
	n.W.Mark(uint64(g.Kind), g.LSN, g.Durable)
	if !c.peer.closed && c.peer.err == nil {
		c.peer.in = append(c.peer.in, g)
	}
}

// Received counts what came.
func (c *Conn) Received() uint64 { return c.came }

// Worn reports whether it has carried as many frames as Net.Wear says.
func (c *Conn) Worn() bool { return c.n.Wear > 0 && c.worn >= c.n.Wear }

// Acknowledged counts what came at the peer, as far as its machine can say so.
func (c *Conn) Acknowledged() (uint64, bool) {
	if !c.n.cut(1-c.from, c.kind) {
		c.acked = c.peer.came
	}
	return c.acked, c.acked == c.sent
}

// Recv gives the next frame.
func (c *Conn) Recv() (f wire.Frame, ok bool) {
	if c.closed || len(c.in) == 0 {
		return f, false
	}
	f, c.in = c.in[0], c.in[1:]
	c.worn++
	c.n.W.After(1, func() {}) // whoever found no room comes by again
	return f, true
}
