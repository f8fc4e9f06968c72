package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// Status is what a node is doing, at one instant.
type Status struct {
	Primary, Ready                   bool
	State, Reason                    string
	Mode                             Mode
	OnDisconnect                     OnDisconnect
	Connected                        bool
	Control                          bool   // the control connection is up
	ControlWhy                       string // it is not
	Peer                             string
	LastError                        string
	Term                             seglog.Term
	Marks                            seglog.Marks
	Volume                           seglog.UUID
	Sealed, Durable, Destaged        seglog.LSN
	Shipped, Received, RemoteDurable seglog.LSN
	LagSegments                      uint64
	RoundTripNanos                   int64
	SinceNanos                       int64 // since the session came up or was lost
	PeerReads                        uint64
	SyncDone, SyncTotal              int64
	SyncKind                         string      // of the sync under way, one of SyncKinds; "": there is none
	Resync                           ResyncStats // of all syncs since this server's start
	CatchUp                          CatchUp
	RefillDone, RefillTotal          int64 // of a new data disk; 0, 0: none is being filled
	HeartbeatNanos, PeerDeadNanos    int64
	Waits                            Timing // all of them
	DiskNanos                        int64  // within which a disk must answer
	RateLimit                        int64  // bytes per second; 0: none
	SentBytes, RawBytes              uint64 // of data frames, as they went and before they were packed
	Compress, Compressing            bool   // asked for; and the peer can take it
	Pack                             wire.PackStats
	Sessions                         int
	Cache                            dcd.Status
}

// Sockets is the state of the sockets to the peer, asked for now; nil: nothing is known. Loop only.
func (n *Node) Sockets() *wire.Sockets {
	ask := func(c Conn) *wire.TCP {
		if c == nil {
			return nil
		}
		if t, ok := c.TCP(); ok {
			return &t
		}
		return nil
	}
	s := &wire.Sockets{Data: ask(n.s.conn), Control: ask(n.ctl.conn)}
	if s.Data == nil && s.Control == nil {
		return nil
	}
	return s
}

// PeerKey is the fingerprint of the key that the peer of the session there is has; "": there is none.
func (n *Node) PeerKey() string {
	if !n.s.up {
		return ""
	}
	return n.s.conn.Key()
}

// Degraded reports whether the volume has a peer and is not as safe as it should be.
func (s *Status) Degraded() bool {
	switch s.State {
	case StateAlone, StateInSync, StateFollowing:
		return false
	}
	return true
}

// Inconsistent reports whether this copy must not be used.
func (s *Status) Inconsistent() bool {
	return s.Marks&seglog.Inconsistent != 0 || !s.Primary && s.Marks&seglog.NeedsRefill != 0
}

// States, in words.
const (
	StateAlone       = "alone"
	StateInSync      = "in sync"
	StateFollowing   = "following"
	StateDegraded    = "degraded"
	StateCatchingUp  = "catching up"
	StateFullSync    = "full sync"
	StateRemote      = "remote"
	StateSuspended   = "suspended"
	StateWaiting     = "waiting for the peer"
	StateFenced      = "fenced"
	StateDiverged    = "diverged"
	StateFailed      = "failed"
	StateWaitPrimary = "waiting for the primary"
	StateIncomplete  = "inconsistent"
)

// StateList is all of them.
var StateList = []string{StateAlone, StateInSync, StateFollowing, StateDegraded, StateCatchingUp, StateFullSync, StateRemote, StateSuspended, StateWaiting,
	StateFenced, StateDiverged, StateFailed, StateWaitPrimary, StateIncomplete}

// SyncKinds are how a sync changes the peer's copy: block by block, inconsistent meanwhile, or as one generation,
// which leaves the old copy as it is until it is whole.
var SyncKinds = [...]string{"in place", "staged"}

// describe finds the word for the state, and reports a change of it.
func (n *Node) describe() {
	if lsn := n.cache.Damaged(); lsn != n.damaged {
		n.damaged = lsn
		n.event("log", "", "damaged", fmt.Sprintf("segment %d is not what was written; what was asked for comes from the peer, or fails", lsn))
	}
	s, why := n.word()
	if s == n.state {
		return
	}
	old := n.state
	n.state = s
	if why != "" {
		n.reason = why
	}
	if old == "" {
		old = "starting"
	}
	n.event("state", old, s, why)
}

func (n *Node) word() (state, why string) {
	switch {
	case n.failed != nil:
		return StateFailed, n.failed.Error()
	case n.swap.handed:
		return n.state, n.reason
	case n.fenced:
		return StateFenced, "a newer term reigns"
	case n.s.diverged != "":
		return StateDiverged, n.s.diverged
	case !n.primary:
		return n.secondaryWord()
	case !n.hasPeer():
		if err := firstErr(n.cache.Lost()); err != nil {
			return StateDegraded, err.Error()
		}
		return StateAlone, "no peer is configured"
	case n.remoteMode:
		if !n.s.up {
			if n.o.OnDisconnect == Error {
				return StateRemote, "the peer is away, and I/O fails (on-disconnect=error)"
			}
			return StateRemote, "the peer is away: I/O waits for it"
		}
		return StateRemote, n.reason
	case !n.ready:
		return StateWaiting, "the peer is asked before anything is served: " + n.s.lastErr
	case n.detour.until > 0:
		return StateSuspended, "a path to the peer was lost, and writes wait while the others are tried: " + n.s.lastErr
	case n.suspended && n.o.OnDisconnect == Error:
		return StateSuspended, "the peer is away or behind, and writes fail (on-disconnect=error): " + n.s.lastErr
	case n.suspended:
		return StateSuspended, "the peer is away or behind, and writes wait (on-disconnect=suspend): " + n.s.lastErr
	case n.s.up && n.full.active:
		if n.full.staged {
			return StateFullSync, fmt.Sprintf("%s; until it is done the peer's copy stays as of LSN %d", n.lag.way, n.full.visible)
		}
		return StateFullSync, n.lag.way
	case n.inSync():
		return StateInSync, "the peer is level"
	case n.s.up:
		return StateCatchingUp, fmt.Sprintf("the peer lacks %d segments", n.log.Sealed()-n.ship.durable)
	}
	return StateDegraded, n.s.lastErr
}

func (n *Node) secondaryWord() (state, why string) {
	switch {
	case n.rx.syncing && n.rx.staged:
		return StateFullSync, fmt.Sprintf("a newer copy is being made beside this one, which is as of LSN %d until then", n.visible().LSN)
	case n.rx.syncing:
		return StateFullSync, "this copy is being made"
	case n.marks()&seglog.NeedsRefill != 0:
		return StateIncomplete, "the disk missed writes while this side was the primary"
	case n.marks()&seglog.Inconsistent != 0 && n.log.Super().Volume != (seglog.UUID{}):
		return StateIncomplete, "a full sync did not finish"
	case n.s.up:
		return StateFollowing, "the primary's log comes as it is written"
	}
	return StateWaitPrimary, n.s.lastErr
}

// Status tells what the node is doing.
func (n *Node) Status() Status {
	sup := n.log.Super()
	s := Status{Primary: n.primary, Ready: n.Ready(), State: n.state, Reason: n.reason, Mode: n.o.Mode, OnDisconnect: n.o.OnDisconnect, Connected: n.s.up, LastError: n.s.lastErr, Term: sup.Term, Marks: sup.Marks, Volume: sup.Volume,
		Sealed: n.log.Sealed(), Durable: n.log.Durable(), Shipped: n.ship.to, Received: n.ship.received, RemoteDurable: n.remoteDurable(), RoundTripNanos: n.s.rtt,
		SinceNanos: n.now.Mono - n.s.since, PeerReads: n.peer.Served, Cache: n.cache.Status(), Sessions: n.s.sessions, RateLimit: n.pace.rate, SentBytes: n.pace.sent, Resync: n.resync, RawBytes: n.rawBytes,
		Compress: n.pack.Zstd(), Compressing: n.s.up && n.pack.Packs(), Pack: n.pack.Stats}
	s.Destaged, s.HeartbeatNanos, s.PeerDeadNanos = s.Cache.Destaged, n.o.Timing.Heartbeat, n.o.Timing.PeerDead
	s.Waits, s.DiskNanos = n.o.Timing, n.cache.DiskDeadline()
	s.CatchUp = n.lag.catchUp()
	s.Control, s.ControlWhy = n.ctl.status()
	if n.fill.active {
		s.RefillDone, s.RefillTotal = n.fill.at, n.cache.Info().SizeBytes
	}
	if n.s.conn != nil {
		s.Peer = n.s.conn.Peer()
	}
	if n.primary && n.hasPeer() && s.Sealed > s.RemoteDurable {
		s.LagSegments = s.Sealed - s.RemoteDurable
	}
	if n.full.active || n.rx.syncing {
		s.SyncKind = SyncKinds[0]
		if n.full.active && n.full.staged || n.cache.Staging() {
			s.SyncKind = SyncKinds[1]
		}
	}
	if n.full.active {
		s.SyncDone, s.SyncTotal = n.full.done(false), n.cache.Info().SizeBytes
	}
	return s
}
