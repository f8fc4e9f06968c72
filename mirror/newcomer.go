package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// newcomer is a data connection that was accepted while there was one. It is given nothing, and takes the other
// one's place once its first frame shows that it is this volume's peer, which has lost the other one before it
// was noticed here: any machine that is trusted may come to the wrong door.
type newcomer struct {
	conn  Conn // nil: none
	since int64
}

// meet takes a connection that was made or accepted.
func (s *session) meet(c Conn) {
	if s.conn == nil {
		s.adopt(c)
		return
	}
	s.turnAway("a newer connection was made")
	s.next = newcomer{c, s.n.now.Mono}
}

// turnAway ends the newcomer, if there is one.
func (s *session) turnAway(reason string) {
	if s.next.conn != nil {
		s.next.conn.Send(s.n.reasonOf(wire.Goodbye, reason))
		s.next.conn.Close()
		s.next.conn = nil
	}
}

// hearNewcomer listens to what the newcomer says first; it waits no longer than for a silent peer.
func (s *session) hearNewcomer() (wake int64) {
	c := s.next.conn
	if c == nil {
		return blk.Never
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
	s.next.conn = nil
	if s.conn != nil {
		s.lost(errors.New("the peer made a new connection"))
	}
	s.adopt(c)
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
