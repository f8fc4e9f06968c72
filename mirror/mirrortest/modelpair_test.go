package mirrortest

import (
	"bytes"
	"fmt"
	"hash/maphash"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// Sizes of the model's volume: three blocks, and a log that holds four segments of one.
const (
	modelBytes   = 3 * dcd.BlockBytes
	modelSegment = dcd.BlockBytes + 512
	modelChunk   = 4 * modelSegment
	modelLog     = 28<<10 + 5*dcd.BlockBytes
)

// modelTurns bounds a history, and modelLate is how many turns whoever comes back late waits.
const (
	modelTurns = 6000
	modelLate  = 70
)

// fault is one power cut, or cut of the link, and what is done about it.
type fault struct {
	turn int
	// what: a, b or both: the machine that leads, and the other one, lose power and all that they
	// had not synced; as capitals, nothing that was on its way to a disk is lost. /: the link is cut. ~: the
	// connection breaks.
	what string
	// then: r: everything comes back at once; l: the other one first, the leader late; i: at once, but
	// the link is cut meanwhile; p: the other one is promoted, and the leader comes back late.
	then byte
}

func (f fault) String() string { return fmt.Sprintf("%d:%s%c", f.turn, f.what, f.then) }

// lackedWord is said of an acknowledgement that the loss of its machine took, as its mode allows.
const lackedWord = "acknowledged, and lacking where it was promoted"

// stagedWord is said of a sync that was staged and became visible.
const stagedWord = "staged, and visible at once"

// powerCut unwinds a machine that loses its power while it waits for a disk.
type powerCut struct{}

// history is what two machines live through. One turn is a batch of each of them and one event.
type history struct {
	w      *blktest.World
	net    *Net
	m      [2]*Machine
	mode   mirror.Mode
	faults []fault
	turn   int
	last   int  // turn of the last fault
	in     int  // machine whose turn it is; it may wait for a disk
	drove  bool // while it waited, the other one may have got something to do
	all    []*Machine
	events []string

	changed []moment // after the last fault
	sig     uint64
	seen    map[uint64]bool // states that both machines were in when they had lost their power; nil: all are new

	lead    int    // the machine that is meant to be the primary
	due     [2]int // turn at which it is started; 0: it is not
	heal    int64  // when which the link comes back
	retire  [2]uint64
	discard [2]bool
	missing *mirror.Missing
	at      seglog.LSN // newest segment of the one that was promoted
	term    [2]uint64  // newest in which each was a primary that served
	stale   [2]bool    // it began after the other one reigned, and had not died degraded: it must ask
	base    [2]int     // volume that a machine had when it was promoted
	ending  bool

	tree    []volume
	acks    []*ack
	clients [2]*client
	written int // by all clients
	said    map[string]int
}

// moment is a turn at which something had changed: the next fault may come then.
type moment struct {
	turn int
	open [2]bool // whether the leader, and the other one, has something that a power cut may take or leave
}

// seenState unwinds a history that goes on as one that was lived already.
type seenState struct{}

// volume is what the volume holds after one more operation of a client.
type volume struct {
	parent int
	image  []byte
}

// ack is one acknowledgement.
type ack struct {
	at   int // volume
	by   int // machine
	lsn  seglog.LSN
	safe bool // it must survive the loss of the machine that gave it
	soft bool // and only as long as the other one does not crash
	void bool // the user said so: --discard-my-data
}

// modelStart is where histories begin: both machines are in sync, and down.
type modelStart struct {
	data, log [2][]byte
	image     []byte
	slow      int   // machine with the slow log
	more      int64 // log that machine 1 has more, for syncs to be staged in
}

func (s *modelStart) live(mode mirror.Mode, faults []fault) *history {
	h := &history{w: blktest.NewWorld(7), mode: mode, faults: faults, said: map[string]int{}, tree: []volume{{-1, s.image}}}
	h.w.Batch = 1
	h.net = NewNet(h.w, 100_000)
	for i := range h.m {
		m := &Machine{Num: i, Primary: i == 0, Data: blktest.NewDisk(h.w, fmt.Sprint("data", i), modelBytes, 150_000), Log: blktest.NewDisk(h.w, fmt.Sprint("log", i), modelLog+int64(i)*s.more, 60_000)}
		if i == s.slow {
			m.Log.MaxNs = 300_000
		}
		m.Data.SetInfo(func(d *blk.Info) { d.Discard, d.WriteZeroes = true, true })
		if s.data[i] != nil {
			m.Data.Restore(s.data[i])
			m.Log.Restore(s.log[i])
		}
		h.m[i] = m
	}
	return h
}

// drive is what a node that waits for a disk turns the world with. The power may be cut meanwhile.
func (h *history) drive() (blk.Instant, error) {
	h.turn++
	h.drove = true
	was := h.m[h.in].Log
	h.strike()
	if h.m[h.in].Log != was {
		panic(powerCut{})
	}
	if !h.w.Step() {
		return h.w.Time(), blktest.ErrQuiet
	}
	h.look()
	return h.w.Time(), nil
}

// powered runs f for machine i and reports whether it got to its end.
func (h *history) powered(i int, f func()) (ok bool) {
	h.in = i
	defer func() {
		if r := recover(); r != nil {
			if _, cut := r.(powerCut); !cut {
				panic(r)
			}
			ok = false
		}
	}()
	f()
	return true
}

func (h *history) start(i int) {
	h.powered(i, func() {
		m := h.m[i]
		h.due[i], h.retire[i] = 0, 0
		c, err := dcd.Open(dcd.Options{Data: m.Data, Log: m.Log, Incarnation: h.w.Rand.Uint64(), DestageBytes: dcd.BlockBytes, IdleNanos: 300_000, Follow: !m.Primary}, h.drive)
		if err != nil {
			fail("machine %d: open: %v", i, err)
		}
		n, err := mirror.New(mirror.Options{Cache: c, Net: h.net.Start(i), Primary: m.Primary, Mode: h.mode, Drive: h.drive, Random: h.w.Rand.Uint64, Discard: h.discard[i],
			Event: func(e mirror.Event) {
				h.events = append(h.events, fmt.Sprintf("%d: %d %s %s→%s %s", h.turn, i, e.What, e.Old, e.New, e.Reason))
				h.said[e.New]++
				if e.Old == "staged" {
					h.said[stagedWord]++
				}
			},
			Sync:   mirror.SyncSizes{Block: dcd.BlockBytes, Step: 2 * dcd.BlockBytes},
			Timing: mirror.Timing{Heartbeat: 2e6, PeerDead: 8e6, Backoff: 5e5, BackoffTo: 2e6, StartWait: 20e6, Remote: 50e6, Ship: 2e5}})
		if err != nil {
			fail("machine %d: node: %v", i, err)
		}
		m.Cache, m.Node = c, n
		s := c.Log().Super()
		h.stale[i] = m.Primary && s.Marks&seglog.Degraded == 0 && s.Term.Number < h.term[1-i]
		h.all = append(h.all, &Machine{Cache: c, Node: n})
	})
}

// stop ends machine i, by a power cut or, keeping all, as well as by an orderly end.
func (h *history) stop(i int, keep bool) {
	m := h.m[i]
	h.net.Stop(i)
	m.Data, m.Log = m.Data.CrashKeeping(keep), m.Log.CrashKeeping(keep)
	m.Node, m.Cache, h.clients[i] = nil, nil, nil
	for _, a := range h.acks {
		if a.by != i && a.soft {
			a.safe = false
		}
	}
}

func (h *history) free() {
	for _, m := range h.all {
		m.Node.Close()
		m.Cache.Close()
	}
}

// strike does the fault that is due now.
func (h *history) strike() {
	if len(h.faults) == 0 || h.turn < h.faults[0].turn {
		return
	}
	f := h.faults[0]
	h.faults, h.last, h.changed = h.faults[1:], h.turn, h.changed[:0]
	h.ending = false
	lead := h.lead
	for _, c := range []byte(f.what) {
		switch c {
		case '/':
			h.cut()
		case '~':
			h.net.Break(Data)
		default:
			i := lead
			if c == 'b' || c == 'B' {
				i = 1 - lead
			}
			h.stop(i, c < 'a')
			h.due[i] = h.turn + 1
			if f.then == 'l' && (i == lead || len(f.what) == 1) || f.then == 'p' && i == lead {
				h.due[i] += modelLate
			}
		}
	}
	switch {
	case f.then == 'i':
		h.cut()
	case f.then == 'p' && !h.m[1-lead].Primary:
		h.lead = 1 - lead
	}
	if len(h.faults) == 0 && h.seen != nil && h.m[0].Node == nil && h.m[1].Node == nil {
		key := h.state(f)
		if h.seen[key] {
			panic(seenState{})
		}
		h.seen[key] = true
	}
}

// cut cuts the link for long enough that both sides notice.
func (h *history) cut() { h.net.Cut, h.heal = [2]bool{true, true}, h.w.Now+12e6 }

// step is one turn.
func (h *history) step() {
	h.turn++
	h.strike()
	if h.heal > 0 && h.w.Now >= h.heal {
		h.net.Cut, h.heal = [2]bool{}, 0
	}
	wake := int64(blk.Never)
	for i := range h.m {
		h.tend(i)
		if h.m[i].Node == nil {
			continue
		}
		if c := h.clients[i]; c != nil {
			c.pump()
		}
		n := h.m[i].Node
		h.powered(i, func() { wake = min(wake, n.Kick(h.w.Time())) })
		h.judge(i)
	}
	for _, due := range h.due {
		if due > 0 {
			wake = min(wake, h.w.Now+1) // the operator is awake
		}
	}
	if h.heal > 0 {
		wake = min(wake, h.heal)
	}
	if wake <= h.w.Now || h.drove {
		h.drove = false
		h.w.AdvanceTo(h.w.Now + 1)
	} else if !h.w.Turn(wake) {
		fail("the world is quiet")
	}
	h.look()
}

// tend is what a user does about machine i.
func (h *history) tend(i int) {
	m := h.m[i]
	if m.Node == nil {
		if h.due[i] > 0 && h.turn >= h.due[i] {
			h.start(i)
		}
		return
	}
	st := m.Node.Status()
	other := h.m[1-i]
	switch {
	case h.retire[i] > 0:
		if m.Cache.Log().Updated() >= h.retire[i] {
			m.Primary = false
			h.stop(i, true)
			h.due[i] = h.turn + 1
		}
	case st.State == mirror.StateFenced && i == h.lead && !other.Primary:
		h.lead = 1 - i // a promotion that was cut short still counts
	case m.Primary && i != h.lead && (st.State == mirror.StateFenced || st.State == mirror.StateDiverged || other.Node != nil && other.Node.Status().State == mirror.StateDiverged):
		t, err := m.Node.Demote()
		if err != nil {
			fail("machine %d: demote: %v", i, err)
		}
		h.retire[i] = t
	case !m.Primary && i != h.lead && other.Node != nil && other.Node.Status().State == mirror.StateDiverged && !h.discard[i] && h.net.Cut == [2]bool{}:
		h.discard[i] = true
		for _, a := range h.acks {
			a.void = a.void || a.by == i
		}
		h.stop(i, true)
		h.due[i] = h.turn + 1
	case !m.Primary && i == h.lead && !st.Primary && !st.Connected:
		h.promote(i)
	case !m.Primary && i == h.lead && st.Connected && h.turn > h.last+5*modelLate:
		h.lead = 1 - i // they met again before anybody was promoted
	case h.discard[i] && st.Connected && !st.Inconsistent():
		h.discard[i] = false // the word was for once
	case i == h.lead && st.Primary && st.Ready && !m.Primary:
		m.Primary = true // the command has ended: the configuration says so, too
	}
	if st.Primary && st.Ready && h.clients[i] == nil && h.m[i].Node != nil && h.retire[i] == 0 {
		h.clients[i] = newClient(h, i)
	}
}

func (h *history) promote(i int) {
	n := h.m[i].Node
	miss, at := n.Missing(), h.m[i].Cache.Log().Sealed()
	err := n.Promote(false)
	st := n.Status()
	switch {
	case err == nil:
		h.missing, h.at = &miss, at
		if miss.To > 0 && (miss.From != at+1 || miss.To < miss.From) {
			fail("promoted at LSN %d, missing %+v", at, miss)
		}
	case st.Inconsistent():
		if a := h.lost(i, -1, func(a *ack) bool { return a.safe }); a != nil {
			fail("machine %d cannot be promoted (%v), and relied upon was write %d", i, err, a.at)
		}
		if h.lead = 1 - i; h.m[h.lead].Node == nil && h.due[h.lead] == 0 {
			h.due[h.lead] = h.turn + 1
		}
	default:
		fail("machine %d: promote: %v", i, err)
	}
}

// state is everything that what comes after a fault depends on, but for chance, when both machines are down.
func (h *history) state(f fault) uint64 {
	var x maphash.Hash
	x.SetSeed(modelSeed)
	for i, m := range h.m {
		x.Write(m.Data.Bytes())
		x.Write(m.Log.Bytes())
		maphash.WriteComparable(&x, [3]bool{m.Primary, h.discard[i], h.due[i] > h.turn+1})
	}
	maphash.WriteComparable(&x, [4]int{int(f.then), h.lead, len(h.tree), h.written})
	for _, a := range h.acks {
		maphash.WriteComparable(&x, *a)
	}
	return x.Sum64()
}

// look notes whether anything has changed since the last turn.
func (h *history) look() {
	var x maphash.Hash
	x.SetSeed(modelSeed)
	put := func(v ...uint64) {
		for _, v := range v {
			maphash.WriteComparable(&x, v)
		}
	}
	put(uint64(len(h.acks)), uint64(len(h.tree)), uint64(h.lead))
	for _, m := range h.m {
		for _, d := range []*blktest.Disk{m.Data, m.Log} {
			put(uint64(d.Writes), uint64(d.Flushes), uint64(d.Busy()))
		}
		if m.Node == nil || m.Cache == nil {
			continue
		}
		l := m.Cache.Log()
		s := l.Super()
		put(l.Sealed(), l.Durable(), l.Updated(), uint64(s.Marks), s.Term.Number, uint64(m.Cache.Dirty()))
		st := m.Node.Status()
		x.WriteString(st.State)
		put(st.Shipped, st.Received, st.RemoteDurable)
	}
	if sig := x.Sum64(); sig != h.sig {
		h.sig = sig
		t := moment{turn: h.turn}
		for i := range t.open {
			m := h.m[(h.lead+i)%2]
			t.open[i] = m.Data.Unsynced() || m.Log.Unsynced()
		}
		h.changed = append(h.changed, t)
	}
}

var modelSeed = maphash.MakeSeed()

// judge looks at what machine i says after its batch.
func (h *history) judge(i int) {
	m := h.m[i]
	if m.Node == nil || h.retire[i] > 0 {
		return
	}
	if o := h.m[1-i]; o.Node != nil {
		if err := Durable(m.Node, o.Node); err != nil {
			fail("machine %d: %v", i, err)
		}
	}
	s := m.Cache.Log().Super()
	st := m.Node.Status()
	if st.Primary && st.Ready {
		h.term[i] = s.Term.Number
	}
	if !st.Primary || !st.Ready || s.Marks&seglog.Degraded != 0 {
		return
	}
	// It claims to be as safe as its mode says.
	for _, a := range h.acks {
		if a.by == i && !a.safe && (h.mode == mirror.Sync || h.mode == mirror.SemiSync && st.State == mirror.StateInSync && h.m[1-i].Node != nil) {
			a.safe, a.soft = true, h.mode == mirror.SemiSync
		}
	}
}

// holds reports whether volume v has operation at in it.
func (h *history) holds(v, at int) bool {
	for ; v >= 0; v = h.tree[v].parent {
		if v == at {
			return true
		}
	}
	return false
}

// lost gives an acknowledgement among those that count which volume v lacks; v negative: it lacks all.
func (h *history) lost(i, v int, counts func(*ack) bool) *ack {
	for _, a := range h.acks {
		if !a.void && counts(a) && !h.holds(v, a.at) {
			return a
		}
	}
	return nil
}

// pin finds which volume machine i's image is. It must hold all that i acknowledged, or inherited.
func (h *history) pin(i int, image []byte) int {
	promoted := h.missing != nil && i == h.lead
	must := func(a *ack) bool {
		return a.safe || a.by == i || !promoted && h.base[i] > 0 && h.holds(h.base[i], a.at)
	}
	found := -1
	var bad *ack
	for v := len(h.tree) - 1; v >= 0; v-- {
		if bytes.Equal(h.tree[v].image, image) {
			found = v
			if bad = h.lost(i, v, must); bad == nil {
				break
			}
		}
	}
	switch {
	case found < 0:
		what := ""
		for s := range uint64(modelBytes / 512) {
			v, _ := blktest.Value(image[s*512:(s+1)*512], s)
			what += fmt.Sprint(" ", v)
		}
		fail("machine %d holds no prefix of what was written:%s", i, what)
	case bad != nil:
		fail("machine %d lacks write %d, acknowledged by machine %d (safe %v)", i, bad.at, bad.by, bad.safe)
	}
	if promoted {
		for _, a := range h.acks {
			if a.void || h.holds(found, a.at) {
				continue
			}
			if h.mode != mirror.Sync && !h.missing.Acknowledged || h.missing.To > 0 && a.lsn < h.missing.From {
				fail("promoted at LSN %d without a word of LSN %d, which was acknowledged: %+v", h.at, a.lsn, h.missing)
			}
			h.said[lackedWord]++
		}
		h.missing, h.base[i] = nil, found
	}
	return found
}
