package mirror

import (
	"errors"
	"fmt"
	"math"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Defaults of Timing, in ns; all are shown in Status.
const (
	second           = 1_000_000_000
	DefaultHeartbeat = 1 * second
	DefaultPeerDead  = 5 * second
	DefaultBackoff   = second / 10
	DefaultBackoffTo = 10 * second
	DefaultStartWait = 30 * second
	DefaultReattach  = 30 * second  // after the death of a server that served, the next one serves at once
	DefaultRemote    = 120 * second // how long I/O waits for the peer while the volume is remote
	DefaultPaths     = 5 * second   // how long the other paths to the peer are tried before the loss of one counts
	DefaultShip      = 5_000_000    // how long segments wait for more before they are sent, in async mode
)

// Timing are the node's waits, in ns; 0 is the default.
type Timing struct{ Heartbeat, PeerDead, Backoff, BackoffTo, StartWait, Reattach, Remote, Paths, Ship int64 }

func (t *Timing) fill() {
	for _, x := range []struct {
		v *int64
		d int64
	}{{&t.Heartbeat, DefaultHeartbeat}, {&t.PeerDead, DefaultPeerDead}, {&t.Backoff, DefaultBackoff}, {&t.BackoffTo, DefaultBackoffTo},
		{&t.StartWait, DefaultStartWait}, {&t.Reattach, DefaultReattach}, {&t.Remote, DefaultRemote}, {&t.Paths, DefaultPaths}, {&t.Ship, DefaultShip}} {
		if *x.v == 0 {
			*x.v = x.d
		}
	}
}

// SyncSizes are how a full or map sync is cut up, in bytes; 0 is the default.
type SyncSizes struct {
	Block int64 // of one read, and frame
	Step  int64 // what the peer makes durable, and says so, at one go
	Piece int64 // that one hash is of, where blocks are compared
}

// Defaults of SyncSizes.
const (
	DefaultSyncBlock = 512 << 10
	DefaultSyncStep  = 16 << 20
	DefaultSyncPiece = wire.PieceBytes
)

func (s *SyncSizes) fill() {
	if s.Block == 0 {
		s.Block = DefaultSyncBlock
	}
	if s.Step == 0 {
		s.Step = DefaultSyncStep
	}
	if s.Piece == 0 {
		s.Piece = DefaultSyncPiece
	}
}

// Event is one change of state, for the log.
type Event struct{ What, Old, New, Reason string }

// Options of New.
type Options struct {
	Cache   *dcd.Cache
	Net     Network // nil: no peer
	Primary bool
	Mode    Mode
	Name    string
	Drive   blk.Drive // for the rare steps that wait: cut, reset
	Random  func() uint64
	Event   func(Event)
	Timing  Timing

	OnDisconnect OnDisconnect
	Discard      bool  // the user says: what only this secondary has is given up
	Compress     bool  // data is compressed on the way to the peer
	RateLimit    int64 // bytes of data sent per second; 0: no limit

	StartAlone bool  // the user says: serve although the peer cannot be asked
	DeadFor    int64 // this server is in the place of one that served and died so long ago, in ns; 0: in nobody's
	Fenced     bool  // that one, or one before it, was fenced: its disks alone do not let this one serve
	Sync       SyncSizes
	Lost       bool // data disk or log is missing: the volume starts remote
	Blank      bool // the log is missing too: the chain goes on where the peer's ends

	// Asked is told that the peer asks for this primary's role, and how long it waits, in ns: see HandOver.
	// It must not block. nil: roles are not swapped that way.
	Asked func(wait int64)

	// Keep is given each segment of a tail before it is given up, then nil: on return from that they are durable.
	Keep func(raw []byte) error
}

// Node is one machine's half of a volume.
type Node struct {
	o     Options
	cache *dcd.Cache
	log   *seglog.Log

	primary bool
	ready   bool // a primary that serves its client
	fenced  bool
	failed  error
	damaged seglog.LSN // what was last said of the log's damage
	closed  bool

	s      session
	ctl    control
	ship   shipper
	rx     receiver
	full   fullSync
	fill   refill
	fell   fallen
	peer   PeerDisk
	srv    server
	give   fetcher
	pace   pace
	lag    lag
	swap   swap
	detour detour

	behind  behind
	backlog [wire.BacklogBytes]byte // see addBacklog

	pack     wire.Packer
	unpack   wire.Unpacker
	rawBytes uint64 // of data frames that were sent, before they were packed
	resync   ResyncStats

	wanted       Mode   // that SetMode asked for, not in force yet; 0: none
	wantedAt     uint64 // superblock ticket that must be durable before
	remoteMode   bool
	suspended    bool // the peer is away, and writes wait or fail: see OnDisconnect
	remoteAsked  bool
	askedRefill  bool   // the peer may note that this side needs a refill, which then did not go remote
	noted        bool   // and says that it does
	replace      bool   // the user replaces the data disk: see Replace
	lostTicket   uint64 // of the superblock that says that the data disk is not good
	remoteDown   int64  // since when the peer is away while remote; 0: it is there
	bound        bool   // acknowledgements wait for the peer, as the mode says
	boundAt      seglog.LSN
	unboundAt    uint64 // superblock ticket that must be durable before acknowledging alone; 0: none
	clearing     uint64 // ticket of the superblock that clears the marks
	safeAt       uint64 // of the one that says that nothing was acknowledged alone, and that the peer lacks nothing
	begun        int64
	promoting    uint64 // ticket of a new term that must be durable before this side serves; 0: none
	claimed      bool   // and its owner must have noted the role: see Claim
	draining     bool
	resyncPaused bool // by the user
	apart        bool // disconnected by the user
	drainPeer    bool // the peer has to be level first
	drained      bool
	endTicket    uint64
	state        string
	reason       string
	now          blk.Instant
	dialFailures int
	out          wire.Frame // see frameOf
}

// New assembles a node around a cache that nobody else drives.
func New(o Options) (*Node, error) {
	o.Timing.fill()
	o.Sync.fill()
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	if o.Cache == nil || o.Drive == nil || o.Random == nil {
		return nil, errors.New("mirror: a node needs a cache, a drive and a source of randomness")
	}
	n := &Node{o: o, cache: o.Cache, log: o.Cache.Log(), primary: o.Primary}
	if err := errors.Join(n.pace.set(o.RateLimit), n.pack.SetZstd(o.Compress)); err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	n.peer.n, n.rx.n, n.full.n, n.srv.n, n.ship.n, n.s.n, n.give.n, n.fell.n, n.lag.n, n.fill.n, n.ctl.n = n, n, n, n, n, n, n, n, n, n, n
	if n.primary && n.marks()&seglog.NeedsRefill != 0 {
		n.o.Lost = true // whatever it looks like now
	}
	n.cache.Follow(!n.primary)
	n.cache.Hold(true)
	if err := errors.Join(n.srv.open(), n.rx.open()); err != nil {
		return nil, err
	}
	switch {
	case n.primary && n.cache.Staging():
		return nil, errors.New("mirror: the log holds a sync that is not whole: only a secondary can be started with it, and promoted")
	case n.log.StageDamaged():
		if err := n.rx.drop("blocks of the sync are damaged", func(*seglog.Super) {}); err != nil {
			return nil, err
		}
	}
	if n.hasPeer() {
		n.cache.SetFallback(&n.peer)
	}
	if n.primary {
		n.asPrimary()
	} else {
		n.cache.Hold(false)
		n.cache.DestageLimit = n.cache.Declared()
		if n.marks()&seglog.Demoted != 0 {
			n.untouched()
			n.ship.open(n.log.First() - 1) // what is given up is kept
		}
	}
	return n, nil
}

func (n *Node) marks() seglog.Marks { return n.log.Super().Marks }

func (n *Node) hasPeer() bool { return n.o.Net != nil }

// asPrimary sets what a primary begins with: nothing is acknowledged before it is ready.
func (n *Node) asPrimary() {
	if !n.hasPeer() {
		n.serve("no peer is configured")
		return
	}
	n.cache.AckLimit = n.log.Sealed()
	if n.untouched(); Planted && Plant == "waiting-destages" {
		n.cache.DestageLimit = n.log.Sealed()
	}
	if n.marks()&seglog.PeerNeedsFullSync == 0 && !n.o.Blank {
		n.ship.open(n.log.First() - 1)
	}
	if d := n.o.DeadFor; d > 0 && (d <= n.o.Timing.Reattach || Planted && Plant == "reattach-late") && !n.o.Fenced && !n.o.Lost {
		n.serve("re-attached in the place of a server that died " + seconds(d) + " ago")
	}
}

// untouched keeps everything in the log from the data disk: a tail that the peer lacks may have to be cut.
func (n *Node) untouched() { n.cache.DestageLimit = n.log.First() - 1 }

// serve lets the client's requests in.
func (n *Node) serve(reason string) {
	if n.ready {
		return
	}
	n.ready = true
	n.cache.Hold(false)
	if n.marks()&seglog.Demoted != 0 { // it ended on the way to that, and nobody was promoted
		n.log.Update(func(s *seglog.Super) { s.Marks = s.Marks&^seglog.Demoted | seglog.HasPeer })
	}
	n.event("volume", "starting", "serving", reason)
	switch {
	case !n.hasPeer():
	case n.s.up && !n.full.active && n.marks()&seglog.Degraded == 0 && (!n.o.Mode.ahead() || n.marks()&seglog.Ahead != 0):
		n.bound, n.boundAt = true, n.log.Durable()
		n.limitBound()
	default:
		// Until a session binds them, acknowledgements need the degraded mark.
		n.unbind(reason)
	}
}

// Ready reports whether a primary serves its client.
func (n *Node) Ready() bool { return n.ready && !n.fenced && !n.swap.handed }

// Device is what the client's requests go to.
func (n *Node) Device() blk.Device { return n.cache }

// Err is why the node cannot go on, or nil.
func (n *Node) Err() error { return n.failed }

func (n *Node) event(what, old, now, reason string) {
	n.o.Event(Event{what, old, now, reason})
}

// Kick ends a batch: frames in, policy, cache, frames out.
func (n *Node) Kick(now blk.Instant) int64 {
	if n.closed {
		return blk.Never // memory and connections are gone
	}
	n.now = now
	n.log.Merge(!n.primary && n.o.Mode == Async)
	if n.begun == 0 {
		n.begun = now.Mono
	}
	if n.primary && !n.hasPeer() {
		wake := min(n.policy(), n.cache.Kick(now))
		n.describe()
		return wake
	}
	wake := n.s.kick()
	n.receive()
	if n.swap.handed {
		// Nothing of a primary's is done any more, and nothing of a secondary's here.
	} else if n.primary {
		wake = min(wake, n.policy())
	} else {
		n.rx.follow()
	}
	before := n.progress()
	wake = min(wake, n.cache.Kick(now))
	if n.progress() != before {
		wake = now.Mono // the policy above has not seen it yet
	}
	wake = min(wake, n.full.kick(), n.rx.hash())
	n.send()
	wake = min(wake, n.pace.wake(), n.ship.wake())
	if n.hasPeer() {
		wake = min(wake, n.peer.Kick(now))
	}
	n.srv.kick()
	n.give.kick()
	wake = min(wake, n.lag.kick(), n.s.redial())
	if n.s.frames > 0 {
		wake = now.Mono // frames are left over for want of room: they go on with the next batch's
		n.s.frames = 0
	}
	n.describe()
	return wake
}

// watchesDurable reports whether the policy looks at what is durable here. In the steady state it
// does not, and each append that completes would cost a batch of its own.
func (n *Node) watchesDurable() bool {
	if !n.primary {
		return n.rx.syncing || n.rx.ending || n.cache.Staging()
	}
	steady := n.bound && n.ship.durable >= n.boundAt || n.alone()
	return n.hasPeer() && !(n.ready && steady && !n.remoteMode)
}

// alone reports whether a degraded primary has nobody to talk to, and its log, not yet full, keeps what the peer lacks.
func (n *Node) alone() bool {
	return !n.bound && n.unboundAt == 0 && n.s.conn == nil && !n.draining && !n.fell.active && n.fell.upTo == 0
}

// progress is what the policy depends on and the cache moves.
func (n *Node) progress() [5]uint64 {
	p := [5]uint64{n.log.Updated(), 0, uint64(n.rx.out) + n.rx.reads<<8, n.cache.Cleared()}
	if n.watchesDurable() {
		p[1] = n.log.Durable()
	}
	p[4] = 2 * n.fill.steps
	if n.rx.flushed {
		p[4]++
	}
	return p
}

// receive takes what has come, as far as there is room for it.
func (n *Node) receive() {
	n.ctl.receive()
	for !n.rx.blocked() {
		f, ok := n.s.recv()
		if !ok {
			break
		}
		n.frame(&f)
	}
	n.s.check()
}

// frame acts on one frame of a session that is established, or on its way to be.
func (n *Node) frame(f *wire.Frame) {
	if f.Kind != wire.Hello && n.s.up && n.s.older(f) {
		n.s.lost(fmt.Errorf("a frame of the older term %d", f.Term.Number))
		return
	}
	switch f.Kind {
	case wire.Hello, wire.Probe, wire.Decision, wire.Goodbye:
		n.s.greet(f)
		return
	case wire.Fetch:
		n.give.asked(f)
		return
	}
	if !n.s.up {
		n.s.lost(errors.New("a frame before the session was agreed upon"))
		return
	}
	if f.Kind.IsData() {
		if err := n.unpack.Unpack(f); err != nil {
			n.s.lost(err)
			return
		}
	}
	switch f.Kind {
	case wire.Ack:
		n.acked(f)
	case wire.Heartbeat:
		n.beat(f, n.s.conn)
	case wire.ReadReply:
		n.peer.reply(f)
	case wire.ReadRequest:
		n.srv.request(f)
	case wire.Mark:
		n.mark(f)
	case wire.MarkDone:
		n.markDone(f)
	case wire.Progress:
		n.progressed(f)
	case wire.Differs:
		n.full.answered(f)
	default:
		n.rx.frame(f)
	}
}

// send gives the connection what is to be sent, the most urgent first.
func (n *Node) send() {
	if !n.s.up {
		return
	}
	n.rx.ack()
	n.rx.answer()
	n.s.heartbeat()
	n.srv.send()
	n.peer.send()
	n.ship.send()
	n.full.send()
}

func (n *Node) term() wire.Term {
	t := n.log.Super().Term
	return wire.Term{Number: t.Number, ID: t.ID}
}

// frameOf gives the one frame there is, with what every frame carries; it is good until the next call.
func (n *Node) frameOf(k wire.Kind) *wire.Frame {
	n.out = wire.Frame{Kind: k, Term: n.term(), LSN: n.log.Sealed(), Durable: n.log.Durable(), Sent: n.now.Mono}
	return &n.out
}

// reasonOf is frameOf with a reason in words as the body, cut where it is too long.
func (n *Node) reasonOf(k wire.Kind, reason string) *wire.Frame {
	f := n.frameOf(k)
	f.Body = []byte(reason[:min(len(reason), wire.MaxReason)])
	return f
}

// reasonIn is the reason that a frame of the peer's carries.
func reasonIn(f *wire.Frame) string { return string(f.Body[:min(len(f.Body), wire.MaxReason)]) }

func peerSays(f *wire.Frame) error { return errors.New("the peer says: " + reasonIn(f)) }

// Fail ends the node's service for good.
func (n *Node) Fail(err error) {
	if n.failed == nil {
		n.failed = err
		n.event("volume", "", "failed", err.Error())
		n.cache.Refuse(true)
	}
}

// Idle reports whether nothing of the node's own is in flight below.
func (n *Node) Idle() bool { return !n.cache.Busy() }

// Close ends the session and gives memory back; no request of the client's may be in flight. Kick then does nothing.
func (n *Node) Close() error {
	n.closed = true
	n.s.goodbye("the server stops")
	n.s.close()
	n.ship.close()
	return errors.Join(n.srv.close(), n.rx.close(), n.full.close(), n.fill.close())
}

const unlimited = math.MaxUint64
