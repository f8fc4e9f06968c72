package mirrortest

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// Sizes of the simulated volume.
const (
	DiskBytes = 256 << 10
	LogBytes  = 192 << 10
)

// Machine is one simulated machine: two disks that survive, and a node that may not.
type Machine struct {
	Num       int
	Data, Log *blktest.Disk
	Node      *mirror.Node
	Cache     *dcd.Cache
	Primary   bool
	Gone      bool  // the data disk: it cannot be opened
	served    bool  // this life has
	died      int64 // when the last one that had ended; 0: none did
	remote    bool  // it was the state at the end of the last life
	fenced    bool
	wake      int64
}

// Pair is two machines with one volume, a client on the primary, and what an oracle knows.
type Pair struct {
	W      *blktest.World
	Net    *Net
	M      [2]*Machine
	At     int // which of them is the primary, or was the last one
	Mode   mirror.Mode
	Oracle *blktest.Oracle
	Load   *blktest.Workload
	Fail   func(format string, args ...any)
	Events []string

	Each     func(p *Pair)         // is called before each turn, if set
	ErrorsOK bool                  // of the client's requests, in lives to come
	Tune     func(*mirror.Options) // of each life of a node, if set
	Reattach bool                  // lives to come take a dead server's place

	// Asked is told that machine i is asked for its role, and how long the other one waits; nil: roles are
	// not swapped that way.
	Asked      func(i int, wait int64)
	OnePrimary bool // the two must never be primaries at once
	hand       *handing

	sealed map[seglog.LSN][]rec // what the primary sealed, for the order of writes
	last   seglog.LSN
	all    []*Machine // every life, for Free
}

type rec struct {
	sector int64
	value  uint64
}

// NewPair formats both machines and starts them; the secondary is new, so it gets a full sync.
func NewPair(seed uint64, mode mirror.Mode, fail func(string, ...any)) *Pair {
	return NewTunedPair(seed, mode, fail, nil)
}

// NewTunedPair is NewPair with options changed by tune.
func NewTunedPair(seed uint64, mode mirror.Mode, fail func(string, ...any), tune func(*mirror.Options)) *Pair {
	return newPair(seed, mode, fail, tune, seglog.PeerNeedsFullSync, false)
}

// NewCleanPair is NewTunedPair where the secondary's disk is taken for equal: it gets what is written.
func NewCleanPair(seed uint64, mode mirror.Mode, fail func(string, ...any), tune func(*mirror.Options)) *Pair {
	return newPair(seed, mode, fail, tune, seglog.AssumedClean, false)
}

func newPair(seed uint64, mode mirror.Mode, fail func(string, ...any), tune func(*mirror.Options), mark seglog.Marks, swaps bool) *Pair {
	w := blktest.NewWorld(seed)
	p := &Pair{W: w, Net: NewNet(w, 300_000), Mode: mode, Oracle: blktest.NewOracle(DiskBytes), Fail: fail, Tune: tune, sealed: map[seglog.LSN][]rec{}}
	if swaps {
		p.takesOver()
	}
	for i := range p.M {
		m := &Machine{Num: i, Primary: i == 0, Data: blktest.NewDisk(w, fmt.Sprint("data", i), DiskBytes, 200_000), Log: blktest.NewDisk(w, fmt.Sprint("log", i), LogBytes, 60_000)}
		m.Data.SetInfo(func(d *blk.Info) { d.Discard, d.WriteZeroes = (seed>>i)%2 == 0, (seed>>i)%2 == 0 })
		p.M[i] = m
		s := newSuper(byte(i), DiskBytes)
		if m.Primary {
			s.Volume, s.Term = seglog.UUID{9}, seglog.Term{Number: 1, ID: 5}
			s.Marks = seglog.HasPeer | seglog.Degraded | seglog.Ahead | mark
		}
		if err := seglog.Create(m.Log, s, w.Drive); err != nil {
			fail("create: %v", err)
		}
		p.Start(i)
	}
	return p
}

// newSuper is the superblock of a secondary's new log, whose disk has size bytes.
func newSuper(id byte, size int64) seglog.Super {
	return seglog.Super{Log: seglog.UUID{id}, DiskBytes: size, DiskBlock: 512, ChunkBytes: 32 << 10, MaxSegmentBytes: 8 << 10, Marks: seglog.Inconsistent}
}

// newLog gives the secondary, which is down, a new log in the place of the one it had.
func (p *Pair) newLog(size int64) {
	if err := seglog.Create(p.M[1].Log, newSuper(78, size), p.W.Drive); err != nil {
		p.Fail("create: %v", err)
	}
}

// Start starts machine i's node from its disks.
func (p *Pair) Start(i int) {
	m := p.M[i]
	var data blk.Device
	if !m.Gone {
		data = m.Data
	}
	c, err := dcd.Open(dcd.Options{Data: data, Log: m.Log, Incarnation: p.W.Rand.Uint64(), DestageBytes: 32 << 10, IdleNanos: 300_000, Follow: !m.Primary}, p.W.Drive)
	if err != nil {
		p.Fail("machine %d: open: %v", i, err)
		return
	}
	o := mirror.Options{Cache: c, Net: p.Net.Start(i), Primary: m.Primary, Lost: m.Gone, Mode: p.Mode, Drive: p.W.Drive, Random: p.W.Rand.Uint64,
		Event: func(e mirror.Event) {
			m.hears(e)
			p.Events = append(p.Events, fmt.Sprintf("%d: %d %s %s→%s %s", p.W.Now, i, e.What, e.Old, e.New, e.Reason))
		},
		Sync:   mirror.SyncSizes{Block: 16 << 10, Step: 48 << 10, Piece: 4 << 10},
		Timing: mirror.Timing{Heartbeat: 2e6, PeerDead: 10e6, Backoff: 5e5, BackoffTo: 4e6, StartWait: 30e6, Reattach: 30e6, Remote: 50e6, Paths: 10e6, Ship: 3e5}}
	if p.Asked != nil {
		o.Asked = func(wait int64) { p.Asked(i, wait) }
	}
	if m.served = false; p.Reattach && m.Primary {
		if o.Fenced = m.fenced; m.died > 0 && !m.remote {
			o.DeadFor = p.W.Now - m.died + 1
		}
	}
	if p.Tune != nil {
		p.Tune(&o)
	}
	n, err := mirror.New(o)
	if err != nil {
		p.Fail("machine %d: node: %v", i, err)
		return
	}
	m.Cache, m.Node, m.wake = c, n, 0
	p.all = append(p.all, &Machine{Cache: c, Node: n})
	if m.Primary {
		p.attach(i)
	}
}

// hears keeps of its node's events what a server notes for the one after it.
func (m *Machine) hears(e mirror.Event) {
	if e.What != "volume" {
		return
	}
	m.served = m.served || e.New == "serving"
	m.remote = e.New == mirror.StateRemote || m.remote && e.Old != mirror.StateRemote
	m.fenced = e.New == mirror.StateFenced || m.fenced && e.New != "serving"
}

// ends notes when a life that served does.
func (m *Machine) ends(now int64) {
	if m.served {
		m.died = now
	}
}

// attach gives machine i's device a client: what another primary had more is no part of the history.
func (p *Pair) attach(i int) {
	c, n := p.M[i].Cache, p.M[i].Node
	p.At = i
	p.forget(c.Log().Sealed())
	p.last = c.Log().Sealed()
	p.Load = blktest.NewWorkload(p.W, blktest.NewCheck(n.Device(), p.Fail), p.Oracle, 8, p.Fail)
	p.Load.MaxBytes = 6 << 10
	p.Load.ErrorsOK = p.ErrorsOK
	p.Load.Discards, p.Load.Zeroes, p.Load.MaxZero = 3, 2, 64<<10
}

// Free gives back the memory of every life. The world must not move any more.
func (p *Pair) Free() {
	for _, m := range p.all {
		m.Node.Close()
		m.Cache.Close()
	}
	p.all = nil
}

// forget drops what was sealed after lsn and did not survive.
func (p *Pair) forget(lsn seglog.LSN) {
	for k := range p.sealed {
		if k > lsn {
			delete(p.sealed, k)
		}
	}
}

// Crash cuts machine i's power; Start brings it back.
func (p *Pair) Crash(i int) {
	m := p.M[i]
	m.ends(p.W.Now)
	p.Net.Stop(i)
	m.Data, m.Log = m.Data.Crash(), m.Log.Crash()
	m.Node, m.Cache = nil, nil
}

// Turn is one batch of each machine that is up.
func (p *Pair) Turn() bool {
	if p.Each != nil {
		p.Each(p)
	}
	wake := int64(blk.Never)
	for i, m := range p.M {
		if m.Node == nil {
			continue
		}
		if m.Primary && p.Load != nil {
			p.Load.Pump()
		}
		m.wake = m.Node.Kick(p.W.Time())
		wake = min(wake, m.wake)
		if m.Primary {
			p.note(i)
		}
	}
	if p.hand != nil && !p.hand.turn() {
		p.hand = nil
	}
	if p.OnePrimary {
		p.one()
	}
	if p.W.Steps%8 == 0 {
		if err := p.safe(); err != nil {
			p.Fail("%v", err)
		}
	}
	p.declared()
	if wake <= p.W.Now {
		p.W.AdvanceTo(p.W.Now + 1)
		return true
	}
	return p.W.Turn(wake)
}

// one fails when both machines are primaries, or would start as such.
func (p *Pair) one() {
	a, b := p.M[0], p.M[1]
	if a.Primary && b.Primary || a.Node != nil && b.Node != nil && a.Node.Ready() && b.Node.Ready() {
		p.Fail("both machines are primaries")
	}
}

// safe says whether what either takes to be durable on the other one is.
func (p *Pair) safe() error {
	for i, m := range p.M {
		if o := p.M[1-i]; m.Node != nil && o.Node != nil {
			if err := Durable(m.Node, o.Node); err != nil {
				return fmt.Errorf("machine %d: %w", i, err)
			}
		}
	}
	return nil
}

// Durable says whether what a primary takes to be durable on its peer is, unless a sync is under way.
func Durable(primary, peer *mirror.Node) error {
	a, b := primary.Status(), peer.Status()
	if a.Primary && !b.Primary && a.Connected && b.Connected && a.SyncTotal == 0 && a.RemoteDurable > b.Durable {
		return fmt.Errorf("LSN %d is taken for durable on the peer, up to %d is", a.RemoteDurable, b.Durable)
	}
	return nil
}

// declared checks that a secondary destages nothing that its primary, which serves, has not durably.
func (p *Pair) declared() {
	a, b := p.M[0], p.M[1]
	if a.Node == nil || b.Node == nil || !a.Primary || b.Primary || !a.Node.Ready() || !a.Node.Status().Connected || !b.Node.Status().Connected {
		return
	}
	to := min(b.Cache.DestageLimit, b.Cache.Log().LastData()) // what is behind has no records
	if durable := a.Cache.Log().Durable(); to > durable && to > b.Cache.Declared() {
		p.Fail("the secondary destages up to LSN %d, its primary has LSN %d durably", to, durable)
	}
}

// note keeps what the primary sealed, in order.
func (p *Pair) note(i int) {
	l := p.M[i].Cache.Log()
	for lsn := p.last + 1; lsn <= l.Sealed(); lsn++ {
		s, ok := l.Lookup(lsn)
		if !ok {
			continue
		}
		raw := l.RAM(s.Pos, s.Bytes)
		if raw == nil {
			continue
		}
		g, err := seglog.Parse(raw, s.Bytes)
		if err != nil {
			p.Fail("sealed segment %d: %v", lsn, err)
			return
		}
		var rs []rec
		for k := range g.Records {
			r := g.Record(k)
			b := g.Payload(r)
			if b == nil {
				for off := int64(0); off < r.Length; off += 512 {
					rs = append(rs, rec{(r.Offset + off) / 512, 0})
				}
				continue
			}
			for off := int64(0); off < r.Length; off += 512 {
				v, err := blktest.Value(b[off:off+512], uint64(r.Offset+off)/512)
				if err != nil {
					p.Fail("sealed segment %d: %v", lsn, err)
				}
				rs = append(rs, rec{(r.Offset + off) / 512, v})
			}
		}
		p.sealed[lsn] = rs
	}
	p.last = max(p.last, l.Sealed())
}

// Prefix checks that an image equals the state after some prefix of what the primary sealed,
// and gives the LSNs between which that prefix may end.
func (p *Pair) Prefix(image []byte) (lo, hi seglog.LSN, err error) {
	order := map[int64][]step{}
	for lsn := seglog.LSN(1); lsn <= p.last; lsn++ {
		for _, r := range p.sealed[lsn] {
			order[r.sector] = append(order[r.sector], step{lsn, r.value})
		}
	}
	// fits counts, as differences, for how many sectors a prefix that ends at each LSN fits.
	fits := make([]int, p.last+2)
	sectors := int64(len(image) / 512)
	for s := range sectors {
		v, err := blktest.Value(image[s*512:(s+1)*512], uint64(s))
		if err != nil {
			return 0, 0, err
		}
		known, at := false, step{}
		for _, next := range append(order[s], step{p.last + 1, 0}) {
			if at.value == v && next.lsn > at.lsn {
				known = true
				fits[at.lsn]++
				fits[next.lsn]--
			}
			at = next
		}
		if !known {
			return 0, 0, fmt.Errorf("sector %d holds write %d, which the primary never sealed", s, v)
		}
	}
	n := 0
	for lsn := seglog.LSN(0); lsn <= p.last; lsn++ {
		if n += fits[lsn]; n == int(sectors) {
			if lo == 0 {
				lo = lsn
			}
			hi = lsn
		}
	}
	if hi == 0 && fits[0] < int(sectors) {
		return 0, 0, fmt.Errorf("no prefix of the %d segments gives this copy", p.last)
	}
	return lo, hi, nil
}

// step is one write of a sector: what it holds from lsn on.
type step struct {
	lsn   seglog.LSN
	value uint64
}
