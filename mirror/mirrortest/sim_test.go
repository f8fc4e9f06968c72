package mirrortest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

type failure struct{ msg string }

func fail(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

// catch turns a failure into an error with the pair's last events.
func catch(seed uint64, p **Pair, err *error) {
	r := recover()
	if r == nil {
		return
	}
	f, ok := r.(failure)
	if !ok {
		panic(r)
	}
	ev := ""
	if *p != nil {
		e := (*p).Events
		ev = "\n  " + strings.Join(e[max(0, len(e)-12):], "\n  ")
	}
	*err = fmt.Errorf("seed %d: %s%s", seed, f.msg, ev)
}

// until turns the world until ok, or fails.
func (p *Pair) until(what string, ok func() bool) {
	for n := 0; !ok(); n++ {
		if n > 60000 || !p.Turn() && !ok() {
			st := ""
			for i, m := range p.M {
				if m.Node != nil {
					s := m.Node.Status()
					st += fmt.Sprintf("\n  %d: %s (%s) sealed %d durable %d remote %d declared %d dirty %d marks %v full %v", i, s.State, s.Reason, s.Sealed, s.Durable, s.RemoteDurable, m.Cache.Declared(), m.Cache.Dirty(), s.Marks, s.Cache.Full)
				}
			}
			fail("never: %s%s", what, st)
		}
	}
}

func (p *Pair) state(i int) string {
	if p.M[i].Node == nil {
		return "down"
	}
	return p.M[i].Node.Status().State
}

// readAll reads a whole machine's copy through its cache.
func (p *Pair) readAll(i int) []byte {
	b, err := blktest.ReadAll(p.M[i].Node.Device(), func() (blk.Instant, error) {
		if !p.Turn() {
			return p.W.Time(), blktest.ErrQuiet
		}
		return p.W.Time(), nil
	})
	if err != nil {
		fail("read machine %d: %v", i, err)
	}
	return b
}

// disturb does one random bad thing, and undoes it some turns later.
func (p *Pair) disturb() {
	turns := func(n int) {
		for range 1 + p.W.Rand.IntN(n) {
			p.Turn()
		}
	}
	if p.W.Rand.IntN(4) == 0 && p.M[p.At].Node != nil {
		p.Mode = mirror.Mode(1 + p.W.Rand.IntN(3))
		p.M[p.At].Node.SetMode(p.Mode)
	}
	if p.Asked != nil && p.W.Rand.IntN(2) == 0 {
		p.swap()
		return
	}
	switch p.W.Rand.IntN(14) {
	case 0:
		p.Net.Break(Data)
		turns(100)
	case 11: // the control connection alone, which then may not come back for a while
		p.Net.Break(Control)
		p.Net.Refuse[Control] = p.W.Rand.IntN(2) == 0
		turns(1500)
		p.Net.Refuse = [2]bool{}
	case 12: // one kind of connections, one way or both
		for kind, i := p.W.Rand.IntN(2), 0; i < 2; i++ {
			p.Net.Half[i][kind] = p.W.Rand.IntN(2) == 0
		}
		p.Load.Left = max(p.Load.Left, p.W.Rand.IntN(60))
		turns(1500)
		p.Net.Half = [2][2]bool{}
	case 13: // a slow link
		p.Net.Rate = 300_000 + p.W.Rand.Int64N(3_000_000)
		p.Load.Left = max(p.Load.Left, p.W.Rand.IntN(100))
		turns(2000)
		p.Net.Rate = 0
	case 1: // a partition, one way or both
		p.Net.Cut = [2]bool{p.W.Rand.IntN(2) == 0, p.W.Rand.IntN(2) == 0}
		turns(2000)
		p.Net.Cut = [2]bool{}
	case 2, 3:
		p.Crash(1 - p.At)
		turns(1500)
		p.Start(1 - p.At)
	case 4:
		p.crashPrimary()
	case 5:
		p.crashPrimary()
		p.Crash(1 - p.At)
		turns(5)
		p.Start(1 - p.At)
	case 6, 7:
		p.fallOut()
	case 8, 9:
		p.replaceDisk()
	case 10:
		p.replaceLog()
	}
}

// fallOut keeps the secondary away, or cut off, until the primary's log is full, and disturbs the
// sync that follows.
func (p *Pair) fallOut() {
	away := p.W.Rand.IntN(2) == 0
	if away {
		p.Crash(1 - p.At)
	} else {
		p.Net.Cut = [2]bool{true, true}
	}
	begun := p.M[p.At].Cache.Log().Head()
	for n := 0; n < 6000 && p.M[p.At].Cache.Log().Head() < begun+2*LogBytes; n++ {
		p.Load.Left = max(p.Load.Left, 20)
		p.Turn()
		if p.W.Rand.IntN(800) == 0 {
			p.crashPrimary1(!away)
		}
	}
	p.Net.Cut = [2]bool{}
	if away {
		p.Start(1 - p.At)
	}
	for range p.W.Rand.IntN(4) {
		for range p.W.Rand.IntN(300) {
			p.Turn()
		}
		switch p.W.Rand.IntN(6) {
		case 0, 1, 2:
			p.Net.Break(Data)
		case 3:
			p.Crash(1 - p.At)
			p.Start(1 - p.At)
		case 4:
			p.crashPrimary1(true)
		}
	}
}

// crashPrimary1 is crashPrimary where the primary may have to start without its peer.
func (p *Pair) crashPrimary1(up bool) {
	p.Crash(p.At)
	p.Load = nil
	p.Start(p.At)
	if p.M[p.At].Cache.Log().Super().Marks&seglog.Degraded == 0 {
		p.Net.Cut = [2]bool{} // it has to ask
		if !up {
			p.Start(1 - p.At)
			up = true
		}
	}
	p.until("the primary serves again", func() bool { return p.M[p.At].Node.Ready() })
	if err := p.Oracle.Pin(p.readAll(p.At), 0); err != nil {
		fail("the primary after its crash: %v", err)
	}
	if p.M[1-p.At].Node != nil && !up {
		p.Crash(1 - p.At)
	}
}

// crashPrimary cuts the primary's power and brings it back; what it then serves is checked.
func (p *Pair) crashPrimary() {
	p.Crash(p.At)
	p.Load = nil
	for range p.W.Rand.IntN(300) {
		p.Turn()
	}
	p.Start(p.At)
	if p.M[1-p.At].Node == nil {
		p.Start(1 - p.At)
	}
	p.until("the primary serves again", func() bool { return p.M[p.At].Node.Ready() })
	if err := p.Oracle.Pin(p.readAll(p.At), 0); err != nil {
		fail("the primary after its crash: %v", err)
	}
}

// tune gives some seeds a link that is limited, and some one that compresses.
func tune(seed uint64) func(*mirror.Options) {
	return func(o *mirror.Options) {
		if seed%7 == 4 || seed%7 == 5 {
			o.RateLimit = 8 << 20
		}
		o.Compress = seed%7 == 5 || seed%7 == 6
	}
}

// tap sees the frames of every run, if set.
var tap func(from int, f *wire.Frame)

// each is what Pair.Each of the pairs to come will be.
var each func(p *Pair)

// run runs one seed: load and disturbances, among them swaps of roles or not, then either convergence or failover.
// In the secondary's log a sync can be staged never, sometimes, or always.
func run(seed uint64, mode mirror.Mode, swaps bool) (p *Pair, err error) {
	return runWith(seed, mode, swaps, LogBytes*[]int64{1, 2, 4}[seed/7%3])
}

func runWith(seed uint64, mode mirror.Mode, swaps bool, peerLog int64) (p *Pair, err error) {
	defer catch(seed, &p, &err)
	mark := seglog.PeerNeedsFullSync
	if seed%5 == 3 {
		mark = seglog.AssumedClean
	}
	p = newPair(seed, mode, fail, tune(seed), mark, swaps, peerLog)
	p.Each = each
	if p.Net.Tap = tap; seed%3 == 2 {
		p.Net.Lacks = wire.FeatureHash
	}
	if seed%11 == 6 {
		p.Net.Wear = 200
	}
	switch seed % 5 {
	case 1:
		p.beforeThePeer(p.seedPeer)
	case 3:
		p.beforeThePeer(func() {})
	}
	p.until("the first full sync", func() bool { return p.state(p.At) == mirror.StateInSync })
	for range 1 + p.W.Rand.IntN(4) {
		p.Load.Left = 40 + p.W.Rand.IntN(300)
		for range p.W.Rand.IntN(600) {
			p.Turn()
		}
		p.disturb()
	}
	if p.W.Rand.IntN(2) == 0 {
		p.converge()
	} else {
		p.failover()
	}
	return p, nil
}

// stages are what becomes of a sync that is staged.
var stages = map[string]string{"copy staged→consistent": "visible at once", "→inconsistent the log has no room": "given up", "copy staged up to": "dropped"}

// seedPeer puts on the secondary's disk what the primary's holds now, under its log, but for some places.
func (p *Pair) seedPeer() {
	b := bytes.Clone(p.M[0].Data.Bytes())
	for n := p.W.Rand.IntN(40); n > 0; n-- {
		at, k := p.W.Rand.IntN(DiskBytes/512)*512, 512<<p.W.Rand.IntN(6)
		piece := b[at:min(at+k, DiskBytes)]
		switch from := p.W.Rand.IntN(3); from {
		case 0:
			clear(piece)
		case 1: // from elsewhere
			copy(piece, bytes.Clone(b[p.W.Rand.IntN(DiskBytes/512)*512:]))
		default:
			for i := range piece {
				piece[i] = byte(p.W.Rand.Uint32())
			}
		}
	}
	p.M[1].Data.Restore(b)
}

// beforeThePeer has the primary write, and crash, before it meets the secondary for the first time;
// then calls met.
func (p *Pair) beforeThePeer(met func()) {
	p.Net.Cut = [2]bool{true, true}
	for n := p.W.Rand.IntN(3000); n > 0; n-- {
		p.Load.Left = max(p.Load.Left, 5)
		p.Turn()
		if p.W.Rand.IntN(1500) == 0 {
			p.crashPrimary1(true)
		}
	}
	met()
	p.Net.Cut = [2]bool{}
	for p.W.Rand.IntN(3) == 0 {
		for range p.W.Rand.IntN(200) {
			p.Turn()
		}
		p.Net.Break(Data)
	}
}

// converge: faults stop, the volume gets in sync, is drained, and the disks are equal.
func (p *Pair) converge() {
	p.until("in sync", func() bool { return p.state(p.At) == mirror.StateInSync })
	p.Load.Left = 30
	p.until("the load ends", func() bool { return p.Load.Done() })
	p.until("in sync", func() bool { return p.state(p.At) == mirror.StateInSync })
	if err := p.M[p.At].Node.Drain(false); err != nil {
		fail("drain: %v", err)
	}
	p.until("drained", func() bool { done, _ := p.M[p.At].Node.Drained(); return done })
	a, b := p.M[p.At].Data.Crash().Bytes(), p.M[1-p.At].Data.Crash().Bytes()
	if !bytes.Equal(a, b) {
		fail("the data disks differ")
	}
	if err := p.Oracle.Pin(a, 0); err != nil {
		fail("the data disk alone: %v", err)
	}
}

// failover: the primary is lost with its disks, under load; the secondary is promoted.
func (p *Pair) failover() {
	p.Load.Left = 200
	for range p.W.Rand.IntN(400) {
		p.Turn()
	}
	safe := p.M[p.At].Node.Status().Mode == mirror.Sync && p.Mode == mirror.Sync && (p.state(p.At) == mirror.StateInSync || p.state(p.At) == mirror.StateRemote)
	p.Crash(p.At)
	p.Load = nil
	if p.W.Rand.IntN(2) == 0 {
		p.Crash(1 - p.At)
		p.Start(1 - p.At)
	}
	for range p.W.Rand.IntN(50) {
		p.Turn()
	}
	p.until("the session ends", func() bool { return !p.M[1-p.At].Node.Status().Connected })
	incomplete := p.M[1-p.At].Cache.Log().Super().Marks&seglog.Inconsistent != 0
	err := p.M[1-p.At].Node.Promote(false)
	if incomplete {
		if err == nil {
			fail("an incomplete copy was promoted")
		}
		if safe {
			fail("the copy is incomplete although the primary said in sync")
		}
		return
	}
	if err != nil {
		fail("promote: %v", err)
	}
	p.M[1-p.At].Primary, p.last = true, p.M[1-p.At].Cache.Log().Sealed()
	p.M[1-p.At].Primary = false // its client is this test
	p.until("the promoted one serves", func() bool { return p.M[1-p.At].Node.Ready() })
	image := p.readAll(1 - p.At)
	lo, hi, err := p.Prefix(image)
	if err != nil {
		fail("the promoted copy: %v", err)
	}
	_, _ = lo, hi
	if safe {
		if err := p.Oracle.Pin(image, 0); err != nil {
			fail("the promoted copy lost what was acknowledged in sync: %v", err)
		}
	}
}

// regressions are seeds that once failed.
var regressions = map[mirror.Mode][]uint64{mirror.Sync: {8, 38, 65, 68, 241, 254, 496, 596, 1385}, mirror.Async: {4, 14, 20, 119}, mirror.SemiSync: {227, 1180}}

// fills are what a new data disk goes through; "resumed" is a refill that a crash interrupted.
var fills = []string{"filled from the peer from byte 0 ", "remote→live", "replaces the data disk", "taken for equal", "serves with a new log"}

func TestSimulation(t *testing.T) {
	for _, mode := range []mirror.Mode{mirror.Sync, mirror.Async, mirror.SemiSync} {
		n, seen, sessions := blktest.Seeds(t, 100), map[uint64]bool{}, 0
		ways := map[string]int{}
		one := func(p *Pair, err error) {
			if err != nil {
				t.Fatalf("%v: %v", mode, err)
			}
			seen[p.W.Trace] = true
			for _, e := range p.Events {
				if _, way, ok := strings.Cut(e, "→up: "); ok {
					for _, w := range []string{"stream", "cut and stream", "full sync", "map sync", "go on with the sync", "take the peer's tail"} {
						if strings.HasPrefix(way, w+" ") {
							ways[w]++
						}
					}
				}
				if strings.Contains(e, "bytes sent, ") && !strings.Contains(e, ", 0 equal") {
					ways["equal at the peer"]++
				}
				for what, w := range stages {
					if strings.Contains(e, what) {
						ways[w]++
					}
				}
				for _, w := range fills {
					if strings.Contains(e, w) {
						ways[w]++
					}
				}
				if strings.Contains(e, "filled from the peer from byte ") && !strings.Contains(e, fills[0]) {
					ways["resumed"]++
				}
			}
			for _, m := range p.M {
				if m.Node != nil {
					sessions += m.Node.Status().Sessions
				}
			}
			ways["looks: inconsistent"] += p.Opened[0]
			ways["looks: a prefix"] += p.Opened[1]
			p.Free()
		}
		for seed := range uint64(n) {
			one(run(seed, mode, false))
		}
		for _, seed := range regressions[mode] {
			one(runWith(seed, mode, false, LogBytes))
		}
		if p, err := run(1, mode, false); err != nil || !seen[p.W.Trace] {
			t.Fatalf("%v: seed 1 is not deterministic (%v)", mode, err)
		}
		t.Logf("%v: %d seeds, %d distinct histories, %d sessions in the last lives; %v", mode, n, len(seen), sessions, ways)
		for _, w := range append([]string{"stream", "full sync", "map sync", "go on with the sync", "resumed", "equal at the peer"}, fills...) {
			if ways[w] == 0 && !blktest.Raced { // so few seeds need not meet all
				t.Errorf("%v: never: %s", mode, w)
			}
		}
	}
}
