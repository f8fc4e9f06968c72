package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// errFresh ends a connection whose keys have been used so often that they should not be much longer.
var errFresh = errors.New("a new connection with fresh keys takes its place")

// renew dials, on the side that does, a connection that takes the place of one that is worn.
func (s *session) renew() (wake int64) {
	n := s.n
	switch {
	case !s.up || s.dialing || s.next.said || n.o.Net.Paths() == 0 || !s.conn.Worn():
		return blk.Never
	case n.now.Mono < s.nextDial:
		return s.nextDial
	case n.rx.syncing || n.rx.prepare != nil: // how far it is it could not say while it goes on; nothing waits for it
		s.lost(errFresh)
		return s.dialAt()
	}
	s.dialing = true
	n.o.Net.Dial()
	return blk.Never
}

// replace ends the connection, if there is one, and goes on with the newcomer.
func (s *session) replace(why error) {
	if s.conn != nil {
		s.lost(why)
	}
	c := s.next
	s.next = newcomer{}
	if c.said {
		s.take(c.conn, c.id)
	} else {
		s.adopt(c.conn)
	}
}

// waitsForReplacement reports whether a secondary has told the primary, over the connection to come, how far it is:
// what the old one still brings is not taken any more.
func (s *session) waitsForReplacement() bool { return s.next.said && !s.n.primary }

// newcomer is a data connection that was accepted while there was one. It is given nothing, and takes the other
// one's place once its first frame shows that it is this volume's peer, which has lost the other one before it
// was noticed here: any machine that is trusted may come to the wrong door.
//
// On the side that dials it is the connection that is to take a worn one's place, see renew: the first word was
// said, and the old one goes on until the peer has answered.
type newcomer struct {
	conn  Conn // nil: none
	since int64
	said  bool     // this side's hello, in which
	id    [16]byte // was the session's
	known bool     // the peer's hello came over it
}

// meet takes a connection that was made or accepted.
func (s *session) meet(c Conn) {
	if s.conn == nil {
		s.adopt(c)
		return
	}
	s.turnAway("a newer connection was made")
	s.next = newcomer{conn: c, since: s.n.now.Mono}
	if s.n.o.Net.Paths() > 0 { // this side has dialed it
		id, err := s.introduce(c)
		if err != nil {
			s.turnAway(err.Error())
			return
		}
		s.next.said, s.next.id = true, id
	}
}

// adopt makes c the connection; there is none.
func (s *session) adopt(c Conn) {
	if id, err := s.introduce(c); err != nil {
		c.Close()
		s.again(err)
	} else {
		s.take(c, id)
	}
}

// introduce says this side's hello on a connection, and with which session.
func (s *session) introduce(c Conn) (id [16]byte, err error) {
	if err := s.n.rx.settle(); err != nil {
		return id, err
	}
	if s.n.primary {
		binary.LittleEndian.PutUint64(id[:], s.n.o.Random())
		binary.LittleEndian.PutUint64(id[8:], s.n.o.Random())
	}
	f, h := s.n.frameOf(wire.Hello), s.n.myHello()
	h.Session = id
	f.Body = h.Encode()
	c.Send(f)
	return id, nil
}

// take makes c, on which this side's hello was said, the connection; there is none.
func (s *session) take(c Conn, id [16]byte) {
	s.conn, s.heard, s.hello, s.asked, s.tail = c, s.n.now.Mono, nil, false, false
	s.bytes, s.acked, s.modeAt, s.bye, s.id = c.Received(), 0, 0, "", id
}

// turnAway ends the newcomer, if there is one.
func (s *session) turnAway(reason string) {
	if s.next.conn != nil {
		if s.next.said {
			s.wait(s.n) // and the worn one goes on
		}
		s.n.refuse(s.next.conn, reason)
		s.next = newcomer{}
	}
}

// hearNewcomer listens to what the newcomer says first; it waits no longer than for a silent peer.
func (s *session) hearNewcomer() (wake int64) {
	c := s.next.conn
	switch {
	case c == nil:
		return blk.Never
	case s.next.said && s.conn == nil:
		s.replace(nil)
		return s.n.now.Mono
	}
	f, ok := c.Recv()
	end := s.next.since + s.n.o.Timing.PeerDead
	switch {
	case !ok && c.Err() != nil:
		s.turnAway(c.Err().Error())
		return blk.Never
	case !ok && s.n.now.Mono < end:
		return end
	case !ok:
		s.turnAway("nothing was said")
		return blk.Never
	}
	if err := s.mayReplace(&f); err != nil {
		s.turnAway(err.Error())
		return blk.Never
	}
	s.next.known = true
	why := errFresh
	if !s.next.said {
		why = errors.New("the peer made a new connection")
	}
	s.replace(why)
	s.n.frame(&f)
	return s.n.now.Mono
}

// mayReplace is why the sender of a connection's first frame cannot be this volume's peer, or nil.
func (s *session) mayReplace(f *wire.Frame) error {
	volume := s.n.log.Super().Volume
	switch f.Kind {
	case wire.Hello:
		h, err := wire.DecodeHello(f.Body)
		switch {
		case err != nil:
			return err
		case s.n.foreign(h.Volume) && (s.up || !h.New):
			return errForeign
		}
		return nil
	case wire.Fetch:
		if string(f.Body) != string(volume[:]) || volume == (seglog.UUID{}) {
			return errForeign
		}
		return nil
	}
	return fmt.Errorf("a frame of kind %d before a hello", f.Kind)
}

var errForeign = errors.New("this side holds another volume")

// foreign reports whether v is another volume than the one that this side holds, if it does.
func (n *Node) foreign(v seglog.UUID) bool {
	mine := n.log.Super().Volume
	return mine != (seglog.UUID{}) && v != mine
}
