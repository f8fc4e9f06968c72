package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/mirror/wire"
)

// stuckDead is how many times longer than the peer may be silent a data connection may stand still while
// the control connection lives: on a slow path with long queues TCP sends again what is only late, and
// nothing new is taken meanwhile.
const stuckDead = 4

// dead says that the peer, or the way to it, counts as dead, or nil. A peer is heard when bytes come, on
// either connection: a frame may take longer than it may be silent. A data connection is dead, too, when
// what was sent over it is not taken there, and nothing comes, while the control connection lives. After
// a goodbye on that what is still on its way is taken.
func (s *session) dead() error {
	n, now, limit := s.n, s.n.now.Mono, s.n.o.Timing.PeerDead
	if b := s.conn.Received(); b != s.bytes {
		s.bytes, s.heard, s.moved = b, now, now
	}
	if n.ctl.look() {
		s.heard = now
	}
	if n.rx.isHeld {
		s.excuse()
	}
	if s.bye != "" {
		if now-s.heard > n.o.Timing.Heartbeat {
			return errors.New(s.bye)
		}
		return nil
	}
	var err error
	switch {
	case now-s.heard > limit:
		err = fmt.Errorf("nothing heard for %s", seconds(limit))
	case n.ctl.up && s.due():
		acked, all := s.conn.Acknowledged()
		if s.idle = all; all || acked != s.acked {
			s.acked, s.moved = acked, now
		}
		if stuck := stuckDead * limit; now-s.moved > stuck {
			err = fmt.Errorf("the data connection carries nothing any more, for %s, although the peer is there", seconds(stuck))
		}
	}
	return err
}

// excuse is told that this side takes nothing from the data connection: it is not the peer that is silent.
func (s *session) excuse() {
	if !s.n.ctl.up {
		s.heard = s.n.now.Mono
	}
}

// due reports whether it is time for a heartbeat.
func (s *session) due() bool { return s.n.now.Mono-s.beaten >= s.n.o.Timing.Heartbeat }

// heartbeat keeps the session alive, and carries what is durable to a quiet peer. With a control
// connection the data connection has one only while nothing else is on its way over it, so that one that
// is half open is noticed before it is needed.
func (s *session) heartbeat() {
	if !s.due() {
		return
	}
	s.beaten = s.n.now.Mono
	f := s.n.frameOf(wire.Heartbeat)
	if s.n.primary {
		f.Flags = uint8(s.n.o.Mode) << beatMode
		s.n.addBacklog(f)
	}
	if s.n.ctl.up {
		s.n.ctl.conn.Send(f)
		if !s.idle {
			return
		}
	}
	s.conn.Send(f)
}

// Flags of a heartbeat: whether it answers one, and the primary's mode.
const (
	beatAnswer = 1
	beatMode   = 4 // shift
)

// beat answers a heartbeat over the connection that it came on, so that the sender learns the round trip,
// and takes an answer.
func (n *Node) beat(f *wire.Frame, over Conn) {
	if !n.primary {
		if err := n.takeBacklog(f); err != nil {
			n.s.lost(err)
			return
		}
	}
	if f.Flags&beatAnswer != 0 {
		if over != n.s.conn || !n.ctl.up {
			n.s.rtt = n.now.Mono - f.Sent
		}
		return
	}
	if !n.primary {
		n.rx.declare(f.Durable)
		n.s.modeAsOf(Mode(f.Flags>>beatMode), f.Sent)
	}
	r := n.frameOf(wire.Heartbeat)
	r.Flags, r.Sent = beatAnswer, f.Sent
	if n.primary {
		n.addBacklog(r)
	}
	over.Send(r)
}

// modeAsOf takes the primary's mode, unless a frame that was sent later has said another.
func (s *session) modeAsOf(m Mode, sent int64) {
	if m != 0 && sent >= s.modeAt {
		s.n.o.Mode, s.modeAt = m, sent
	}
}

// sealedBy notes what the primary is known to have.
func (s *session) sealedBy(f *wire.Frame) { s.peerSealed = max(s.peerSealed, f.LSN) }

// older reports whether a frame is of a primary that reigns no more. A secondary has agreed to this side's term
// with the session, and says the one before until it is durable there.
func (s *session) older(f *wire.Frame) bool {
	return !s.n.primary && f.Term.Number < s.n.term().Number
}
