package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// controlNumber is the connection number of the control connection; the data connection has 0.
const controlNumber = 1

// control is a session's second connection. Heartbeats and their answers go over it, so that they wait
// behind no data and measure the round trip of the path; everything that has a place in the stream, and
// acknowledgements, which travel against the data, stay on the data connection. Nothing depends on
// which of two frames on different connections comes first. Without it, heartbeats go over the data
// connection; its loss costs a new attempt and nothing else.
//
// Both ends begin with a hello that names session and connection number; the one that finds that wrong
// says so and closes.
type control struct {
	n    *Node
	conn Conn // nil: none
	up   bool // both ends agree that it belongs to the session

	retry
	dialing bool
	bytes   uint64 // that had come
	heard   int64  // when that grew
	why     string // it is not up
}

// offered reports whether the peer can do it.
func (c *control) offered() bool {
	h := c.n.s.hello
	return c.n.s.up && c.n.s.bye == "" && h != nil && h.Offered&wire.FeatureControl != 0
}

// taken is told of a connection that was made or accepted, or why none was made.
func (c *control) taken(conn Conn, err error) {
	if err != nil {
		c.dialing = false
		if c.offered() && c.conn == nil {
			c.again(err)
		}
		return
	}
	switch {
	case !c.offered():
		c.n.refuse(conn, "there is no session here that it could belong to")
		return
	case c.conn != nil:
		c.n.refuse(conn, "the session has a control connection")
		return
	}
	c.dialing = false
	c.conn, c.up, c.heard, c.bytes = conn, false, c.n.now.Mono, conn.Received()
	f := c.n.frameOf(wire.Hello)
	h := wire.HelloMsg{Version: wire.Version, MinVersion: wire.MinVersion, Offered: wire.Features, Volume: c.n.log.Super().Volume, Session: c.n.s.id, Connection: controlNumber}
	f.Body = h.Encode()
	conn.Send(f)
}

// refuse ends a connection that belongs to nothing here, and says why.
func (n *Node) refuse(conn Conn, reason string) {
	conn.Send(n.reasonOf(wire.Goodbye, reason))
	conn.Close()
}

// again plans the next attempt.
func (c *control) again(err error) {
	c.why = err.Error()
	c.wait(c.n)
}

// lost ends the connection; the session goes on.
func (c *control) lost(err error) {
	if c.conn == nil {
		return
	}
	c.conn.Close()
	was := c.up
	c.conn, c.up = nil, false
	c.again(err)
	if was {
		c.n.event("control connection", "up", "down", err.Error())
	}
}

// close ends it with the session, and says why that ends.
func (c *control) close(reason string) {
	switch {
	case c.up:
		c.n.refuse(c.conn, reason)
	case c.conn != nil:
		c.conn.Close()
	}
	c.conn, c.up, c.dialing, c.retry, c.why = nil, false, false, retry{}, ""
}

// kick looks at the clock, and dials.
func (c *control) kick() int64 {
	now, dead := c.n.now.Mono, c.n.o.Timing.PeerDead
	switch {
	case !c.offered():
		return blk.Never
	case c.conn != nil:
		switch {
		case c.conn.Worn():
			c.lost(errFresh)
			return blk.Never
		case c.heard+dead >= now:
			return c.heard + dead + 1
		}
		c.lost(fmt.Errorf("nothing heard for %s", seconds(dead)))
	}
	if now >= c.dialAt() {
		c.dialing = true
		c.n.o.Net.DialControl()
	}
	return blk.Never // see redial
}

// dialAt is when the next attempt is due.
func (c *control) dialAt() int64 {
	if !c.offered() || c.conn != nil || c.dialing {
		return blk.Never
	}
	return c.nextDial
}

// look notices that bytes came.
func (c *control) look() (came bool) {
	if c.conn == nil {
		return false
	}
	if b := c.conn.Received(); b != c.bytes {
		c.bytes, c.heard = b, c.n.now.Mono
		return c.up
	}
	return false
}

// receive takes what has come.
func (c *control) receive() {
	for c.conn != nil {
		f, ok := c.conn.Recv()
		if !ok {
			break
		}
		c.frame(&f)
	}
	if c.conn != nil {
		if err := c.conn.Err(); err != nil {
			c.lost(err)
		}
	}
}

func (c *control) frame(f *wire.Frame) {
	n := c.n
	switch {
	case f.Kind == wire.Goodbye && !c.up:
		c.lost(peerSays(f))
	case f.Kind == wire.Hello && !c.up:
		if err := c.gotHello(f); err != nil {
			c.n.refuse(c.conn, err.Error())
			c.lost(err)
		}
	case !c.up || f.Kind != wire.Heartbeat && f.Kind != wire.Goodbye:
		c.lost(fmt.Errorf("a frame of kind %d on the control connection", f.Kind))
	case n.s.older(f):
		n.s.lost(fmt.Errorf("a frame of the older term %d", f.Term.Number))
	case f.Kind == wire.Goodbye && n.s.bye != "":
	case f.Kind == wire.Goodbye:
		// What was sent before it on the data connection may still be on its way, and counts.
		n.s.bye = peerSays(f).Error()
		n.swap.wanted = false
	default:
		n.s.sealedBy(f)
		n.beat(f, c.conn)
	}
}

// gotHello joins the connection to the session, or says why it does not belong to it.
func (c *control) gotHello(f *wire.Frame) error {
	h, err := wire.DecodeHello(f.Body)
	switch {
	case err != nil:
		return err
	case h.Session != c.n.s.id:
		return errors.New("it belongs to another session")
	case h.Connection != controlNumber:
		return fmt.Errorf("a session has no connection number %d", h.Connection)
	}
	c.up, c.backoff, c.why = true, 0, ""
	c.n.s.moved = c.n.now.Mono
	c.n.event("control connection", "down", "up", c.conn.Peer())
	return nil
}

// status says whether it is up, and if not, why.
func (c *control) status() (up bool, why string) {
	switch {
	case c.up, !c.n.s.up:
		return c.up, ""
	case !c.offered():
		return false, "the peer's version has none"
	case c.why == "":
		return false, "it is being made"
	}
	return false, c.why
}
