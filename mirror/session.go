package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// session is the conversation with the peer: over a data connection, and a control connection where both can.
type session struct {
	n    *Node
	conn Conn     // the data connection
	next newcomer // that may take its place
	up   bool     // both sides agree on how to go on
	id   [16]byte // drawn by the primary

	hello     *wire.HelloMsg // the peer's
	ofPrimary bool           // the newest hello that came, in this or an earlier connection, was a primary's
	durable   seglog.LSN     // there, when it said so; the end of its chain may be in its RAM only
	view      View
	asked     bool
	tail      bool // the peer's tail is coming: segments are taken by a primary
	tailTo    seglog.LSN

	retry
	dialing    bool
	bytes      uint64 // that had come on the data connection
	heard      int64  // when bytes came last, on either connection
	acked      uint64 // bytes of ours that the data connection had brought there
	moved      int64  // when it last brought any, either way, or had none to bring
	idle       bool   // it had none
	beaten     int64  // when the last heartbeat went
	modeAt     int64  // when the primary sent the mode that is known, by its clock
	bye        string // that the peer said on the control connection; the data connection's end is to come
	rtt        int64
	lastErr    string
	since      int64 // when the session came up, or was lost
	diverged   string
	peerSealed seglog.LSN // newest segment that the primary is known to have
	frames     int
	sessions   int
}

// kick meets the peer: dials at the deadline, takes connections, looks at the clock.
func (s *session) kick() int64 {
	n := s.n
	if n.o.Net == nil {
		return blk.Never
	}
	if why := n.shut(); why != nil && s.conn != nil {
		s.goodbye(why.Error())
		s.lost(why)
	}
	if why := n.unmet(); why != nil {
		s.turnAway(why.Error())
	}
	for range 8 {
		c, control, err := n.o.Net.Next()
		if c == nil && err == nil {
			break
		}
		s.dialing = s.dialing && control
		if why := n.unmet(); why != nil {
			if c != nil {
				n.refuse(c, why.Error())
			}
			continue
		}
		if control {
			n.ctl.taken(c, err)
			continue
		}
		if err != nil {
			if s.conn == nil {
				n.dialFailures++
			}
			s.again(err)
			continue
		}
		s.meet(c)
	}
	wake := s.hearNewcomer()
	now := n.now.Mono
	if s.conn != nil {
		if err := s.dead(); err != nil {
			s.lost(err)
		} else {
			wake = min(wake, s.heard+n.o.Timing.PeerDead+1, n.ctl.kick(), s.renew())
			if s.up {
				wake = min(wake, max(s.beaten+n.o.Timing.Heartbeat, now+1))
			}
			return wake
		}
	}
	if now >= s.dialAt() {
		s.dialing = true
		n.o.Net.Dial()
	}
	return wake // see redial
}

// dialAt is when the next attempt is due.
func (s *session) dialAt() int64 {
	n := s.n
	if n.o.Net == nil || s.conn != nil || s.next.said || n.fenced || s.dialing || n.unmet() != nil {
		return blk.Never
	}
	return s.nextDial
}

// redial is when a connection that is not there, or was lost in this batch, is dialed.
func (s *session) redial() int64 {
	if s.next.said && s.conn == nil {
		return s.n.now.Mono
	}
	return min(s.dialAt(), s.n.ctl.dialAt())
}

// again plans the next attempt.
func (s *session) again(err error) {
	s.lastErr = err.Error()
	s.wait(s.n)
}

func (n *Node) myHello() wire.HelloMsg {
	sup := n.log.Super()
	h := wire.HelloMsg{Version: wire.Version, MinVersion: wire.MinVersion, Offered: wire.Features, Volume: sup.Volume, Primary: n.primary, Serving: n.ready && n.primary,
		Mode: uint8(n.o.Mode), Marks: uint32(sup.Marks), DiskBytes: uint64(n.cache.Info().SizeBytes), DiskBlock: uint32(n.cache.Info().LogicalBytes), LogBlock: uint32(sup.BlockBytes),
		MaxSegment: uint32(sup.MaxSegmentBytes), Term: n.term(), Declared: n.cache.Declared(), Destaged: n.cache.Cleared(), Name: n.o.Name}
	h.Discard = n.o.Discard && !n.primary
	h.StageRoom = n.stageable()
	if h.Staging = n.cache.Staging(); h.Staging {
		h.Visible = n.visible()
		h.Marks |= uint32(seglog.Inconsistent) // as which the end of its log is: all that an older primary knows
	}
	if n.o.Asked != nil && n.primary {
		h.Offered |= wire.FeatureSwap
	}
	// A disk that missed writes which no log here has is as good as a new one.
	h.New = !n.primary && (sup.Volume == seglog.UUID{} || sup.Marks&seglog.NeedsRefill != 0)
	h.First.LSN = n.oldest()
	h.First.Hash, _ = n.log.Hash(h.First.LSN - 1)
	h.Last.LSN = n.log.Sealed()
	h.Last.Hash, _ = n.log.Hash(n.log.Sealed())
	return h
}

// oldest is the oldest segment that will stay in the log as long as somebody wants it.
func (n *Node) oldest() seglog.LSN { return max(n.log.First(), n.log.Super().Start.LSN) }

func (s *session) recv() (wire.Frame, bool) {
	if s.conn == nil {
		return wire.Frame{}, false
	}
	f, ok := s.conn.Recv()
	if ok && s.up && f.Kind != wire.Ack {
		s.sealedBy(&f)
	}
	return f, ok
}

// check notices a dead connection after everything that had arrived was taken.
func (s *session) check() {
	if s.conn != nil {
		if err := s.conn.Err(); err != nil {
			if s.bye != "" {
				err = errors.New(s.bye)
			}
			s.lost(err)
		}
	}
}

// lost ends the session; the next attempt comes by itself.
func (s *session) lost(err error) {
	if s.conn == nil {
		return
	}
	s.conn.Close()
	s.n.ctl.close(err.Error())
	was := s.up
	if !was {
		s.n.dialFailures++
	}
	s.conn, s.up, s.tail, s.hello = nil, false, false, nil
	s.since = s.n.now.Mono
	if was {
		s.backoff = 0
		s.n.event("session", "up", "down", err.Error())
	}
	s.again(err)
	s.n.sessionLost(err)
}

func (s *session) close() {
	s.turnAway("closed")
	s.n.ctl.close("closed")
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	s.up = false
}

// goodbye tells the peer why the session ends.
func (s *session) goodbye(reason string) {
	if s.conn == nil {
		return
	}
	f := s.n.reasonOf(wire.Goodbye, reason)
	s.conn.Send(f)
	if s.n.ctl.up {
		s.n.ctl.conn.Send(f)
	}
}

// greet handles what is said before a session is up, and its end.
func (s *session) greet(f *wire.Frame) {
	var err error
	switch f.Kind {
	case wire.Hello:
		err = s.gotHello(f)
	case wire.Probe:
		err = s.gotProbe(f)
	case wire.Decision:
		err = s.gotDecision(f)
	case wire.Goodbye:
		err = peerSays(f)
	}
	if err != nil {
		s.lost(err)
	}
}

func (s *session) gotHello(f *wire.Frame) error {
	h, err := wire.DecodeHello(f.Body)
	if err != nil {
		return err
	}
	if s.hello != nil {
		return errors.New("a second hello")
	}
	s.hello, s.durable, s.ofPrimary = &h, f.Durable, h.Primary
	n := s.n
	n.pack.Begin(h.Offered)
	if !n.primary {
		if n.foreign(h.Volume) {
			s.goodbye(errForeign.Error())
			return errForeign
		}
		if n.heldBy(&h) {
			n.promote("the primary had handed its role over when the session was lost")
			return nil
		}
		s.id = h.Session
		if !h.Primary {
			s.goodbye("this side is a secondary too: promote one")
			return errors.New("both sides are secondaries: promote one of them")
		}
		return nil // the primary decides
	}
	s.view = View{Me: n.myHello(), Peer: h}
	if seglog.Marks(h.Marks)&seglog.PeerNeedsRefill != 0 && !n.remoteMode && !n.foreign(h.Volume) {
		// This side's disk or log missed writes, whatever it looks like now; unless it has only just
		// asked for that note, and the session ended before the answer.
		if n.noted = n.ready && n.askedRefill; n.ready && !n.noted {
			n.fence("the peer notes that this side's disk missed writes")
			return errors.New("this side needs a refill")
		}
		if !n.ready && !n.o.Lost {
			n.o.Lost = true
			n.cache.LoseData(errors.New("the disk missed writes while the peer stood in for it"))
			n.event("volume", "starting", "remote", "the peer notes that this side's disk needs a refill")
		}
	}
	if n.o.Blank && !n.ready {
		return n.s.startBlank()
	}
	s.know(h.Last)
	return s.decide()
}

// know looks whether the peer's point lies on this log's chain.
func (s *session) know(p wire.Point) {
	if h, ok := s.n.log.Hash(p.LSN); ok && h == p.Hash && p.LSN+1 >= s.n.oldest() {
		s.view.Common, s.view.Known = max(s.view.Common, p.LSN), true
	}
}

// gotProbe answers a question for hashes, or takes the answer.
func (s *session) gotProbe(f *wire.Frame) error {
	pts, err := wire.DecodePoints(f.Body)
	if err != nil {
		return err
	}
	n := s.n
	if n.primary {
		for _, p := range pts {
			s.know(p)
		}
		s.view.None = !s.view.Known
		s.asked = true
		return s.decide()
	}
	for i := range pts {
		pts[i].Hash = 0
		if h, ok := n.log.Hash(pts[i].LSN); ok {
			pts[i].Hash = h
		}
	}
	r := n.frameOf(wire.Probe)
	r.Body = wire.EncodePoints(pts)
	s.conn.Send(r)
	return nil
}

// decide is the primary's: it follows the pure rule and tells the peer.
func (s *session) decide() error {
	n := s.n
	s.view.Me, s.view.NoDisk = n.myHello(), n.remoteMode || n.o.Lost
	s.mapView()
	v, reason := decide(s.view)
	old := "connecting"
	d := wire.DecisionMsg{Mode: uint8(n.o.Mode), Volume: n.log.Super().Volume, Common: s.view.Common, Reason: reason}
	switch v {
	case AsksMore:
		return s.ask()
	case TakesTerm:
		if err := n.takeTerm(s.view.Peer.Term.Number+1, reason); err != nil {
			return err
		}
		return s.decide()
	case Stops:
		n.fence(reason)
		return errors.New(reason)
	case Refuses, Diverges:
		d.Way, d.Parted = wire.Refuse, v == Diverges
		s.part(d.Parted, reason)
		s.tell(d)
		return fmt.Errorf("%v: %s", v, reason)
	case TakesTail:
		d.Way, d.At.LSN = wire.TakeTail, n.log.Sealed()
		s.tail, s.tailTo = true, s.view.Peer.Last.LSN
	case FullSyncs, MapSyncs:
		if d.Way = wire.FullSync; v == MapSyncs {
			d.Way = wire.MapSync
		}
		at, err := n.full.begin(v == FullSyncs)
		if err != nil {
			return err
		}
		d.At, d.Stage = at, n.full.staged
	case Resumes:
		d.Way, d.Resume, d.At, d.Stage = wire.FullSync, true, s.view.Peer.Last, s.view.Peer.Staging
		if err := n.full.resume(d.At.LSN); err != nil {
			return err
		}
	case Streams, CutStream:
		d.Way, d.Cut = wire.Stream, v == CutStream
		d.At.LSN = s.view.Common
		d.At.Hash, _ = n.log.Hash(s.view.Common)
		if err := n.ship.from(s.view.Common, s.durable); err != nil {
			return err
		}
		n.full.hold(false, 0)
		if n.log.Dirty().Active() {
			n.mapEnds() // all that it says lies before the peer's end
		}
	}
	s.tell(d)
	s.diverged = ""
	s.up, s.since = true, n.now.Mono
	s.backoff = 0
	s.sessions++
	n.event("session", old, "up: "+v.String(), reason)
	if v != TakesTail {
		n.lag.up(v, reason)
		n.sessionUp(v)
	}
	return nil
}

// part notes whether, and why, the two sides' histories have parted. It is tried again, for whoever
// gives one of them up may do so on the other side.
func (s *session) part(parted bool, reason string) {
	if !parted {
		reason = ""
	}
	if reason != "" && s.diverged == "" {
		s.n.event("volume", s.n.state, "diverged", reason)
	}
	s.diverged = reason
}

// mapView says what the dirty map is good for with this peer.
func (s *session) mapView() {
	d, p := s.n.log.Dirty(), &s.view.Peer
	at, off := d.Resume()
	follows := d.Active() && s.view.Known && s.view.Common == p.Last.LSN && at > 0 && p.Last.LSN >= at
	s.view.MapGood = d.Knows(p.Last.LSN, p.Last.Hash) || follows
	if p.Staging { // what it has beyond what is visible is given up for a sync that begins anew
		s.view.MapGood = d.Knows(p.Visible.LSN, p.Visible.Hash) && s.n.marks()&seglog.PeerNeedsFullSync == 0
	}
	s.view.CanResume = follows && off > 0
	s.view.Clean = s.n.clean(p)
}

// clean reports whether a new peer lacks only what log or map here say: the user takes its disk for equal.
func (n *Node) clean(p *wire.HelloMsg) bool {
	m := n.marks() & (seglog.AssumedClean | seglog.PeerNeedsFullSync)
	if m != seglog.AssumedClean || !p.New || p.Volume != (seglog.UUID{}) {
		return false
	}
	h, _ := n.log.Hash(0)
	return n.log.Dirty().Knows(0, h) || !n.log.Dirty().Active() && n.oldest() == 1
}

func (s *session) tell(d wire.DecisionMsg) {
	f := s.n.frameOf(wire.Decision)
	f.Body = d.Encode()
	s.conn.Send(f)
}

// ask requests the peer's hashes of the newest LSNs that both logs may hold.
func (s *session) ask() error {
	if s.asked {
		s.view.None = true
		return s.decide()
	}
	n, p := s.n, s.view.Peer
	lo, hi := max(n.oldest()-1, p.First.LSN-1), min(n.log.Sealed(), p.Last.LSN)
	var pts []wire.Point
	for lsn := hi; lsn+1 > lo && len(pts) < wire.MaxPoints; lsn-- {
		pts = append(pts, wire.Point{LSN: lsn})
		if lsn == 0 {
			break
		}
	}
	f := n.frameOf(wire.Probe)
	f.Body = wire.EncodePoints(pts)
	s.conn.Send(f)
	return nil
}

// gotDecision is the secondary's: it does what the primary decided.
func (s *session) gotDecision(f *wire.Frame) error {
	n := s.n
	d, err := wire.DecodeDecision(f.Body)
	if err != nil {
		return err
	}
	if n.primary || s.hello == nil {
		return errors.New("a decision that nobody asked for")
	}
	if f.Term.Number < n.term().Number {
		s.goodbye(fmt.Sprintf("this side has seen term %d", n.term().Number))
		return fmt.Errorf("the primary has the older term %d, this side %d", f.Term.Number, n.term().Number)
	}
	s.modeAsOf(Mode(d.Mode), f.Sent)
	if d.Way == wire.Refuse {
		s.part(d.Parted, d.Reason)
		return fmt.Errorf("the primary refuses: %s", d.Reason)
	}
	if n.foreign(d.Volume) || d.Volume != s.hello.Volume {
		s.goodbye(errForeign.Error())
		return errForeign
	}
	if err := n.rx.agree(f, &d); err != nil {
		return err
	}
	s.up, s.since, s.backoff, s.diverged = true, n.now.Mono, 0, ""
	s.sessions++
	n.behind = behind{}
	if n.swap.asked {
		n.keeps(errSwapLost.Error() + ", and the primary goes on as one")
	}
	n.event("session", "connecting", "up", d.Reason)
	return nil
}
