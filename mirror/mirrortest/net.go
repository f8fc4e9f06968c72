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
	Room   int                           // frames that fit a connection
	Tap    func(from int, f *wire.Frame) // sees each frame that is sent, if set
	Lacks  uint64                        // features that neither side offers: peers of an older version
	sides  [2]*Side
	Frames int
}

// Side is one machine's end of the network.
type Side struct {
	net  *Net
	num  int
	next []any // *Conn or error
	up   bool
	live *Conn
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
	if s.live != nil {
		s.live.fail(errors.New("reset by peer"))
	}
}

// Break ends the connection there is, both ends noticing at times of their own.
func (n *Net) Break() {
	for _, s := range n.sides {
		if c := s.live; c != nil {
			n.W.After(1+n.W.Rand.Int64N(n.MaxNs), func() { c.err = errors.New("connection reset") })
		}
	}
}

// Dial makes a connection after a while, unless nobody listens or the way is cut.
func (s *Side) Dial() {
	n := s.net
	if s.num == 1 {
		return
	}
	n.W.After(1+n.W.Rand.Int64N(n.MaxNs), func() {
		peer := n.sides[1]
		if !s.up {
			return
		}
		if !peer.up || n.Cut[0] || n.Cut[1] {
			s.next = append(s.next, errors.New("connection refused"))
			return
		}
		a, b := &Conn{n: n, from: 0}, &Conn{n: n, from: 1}
		a.peer, b.peer = b, a
		s.live, peer.live = a, b
		s.next, peer.next = append(s.next, a), append(peer.next, b)
	})
}

// Next gives what has happened.
func (s *Side) Next() (mirror.Conn, error) {
	if len(s.next) == 0 {
		return nil, nil
	}
	x := s.next[0]
	s.next = s.next[1:]
	if err, ok := x.(error); ok {
		return nil, err
	}
	return x.(*Conn), nil
}

// Conn is one end of a simulated connection: ordered, delayed, bounded.
type Conn struct {
	n      *Net
	from   int
	peer   *Conn
	in     []wire.Frame
	pipe   []wire.Frame
	flying int
	last   int64
	err    error
	closed bool
}

// Peer names the other end.
func (c *Conn) Peer() string { return fmt.Sprintf("sim%d", 1-c.from) }

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

// Close cuts the connection.
func (c *Conn) Close() error {
	if !c.closed {
		c.closed = true
		c.fail(errors.New("closed by peer"))
	}
	return nil
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
	if f.Kind == wire.Hello && n.Lacks != 0 {
		h, err := wire.DecodeHello(g.Body)
		if err != nil {
			panic(err)
		}
		h.Offered &^= n.Lacks
		g.Body = h.Encode()
	}
	n.Frames++
	if n.Tap != nil {
		n.Tap(c.from, f)
	}
	c.last = max(c.last, n.W.Now+1+n.W.Rand.Int64N(n.MaxNs)) + 1
	c.flying++
	c.pipe = append(c.pipe, g)
	n.W.After(c.last-n.W.Now, c.deliver)
	return true
}

// deliver brings the oldest frame to the other end; while the way is cut it is sent again and
// again, as TCP does.
func (c *Conn) deliver() {
	n := c.n
	if n.Cut[c.from] && !c.peer.closed && c.peer.err == nil {
		n.W.After(n.MaxNs, c.deliver)
		return
	}
	g := c.pipe[0]
	c.pipe = c.pipe[1:]
	c.flying--
	n.W.Mark(uint64(g.Kind), g.LSN, g.Durable)
	if !c.peer.closed && c.peer.err == nil {
		c.peer.in = append(c.peer.in, g)
	}
}

// Recv gives the next frame.
func (c *Conn) Recv() (f wire.Frame, ok bool) {
	if c.closed || len(c.in) == 0 {
		return f, false
	}
	f, c.in = c.in[0], c.in[1:]
	c.n.W.After(1, func() {}) // whoever found no room comes by again
	return f, true
}
