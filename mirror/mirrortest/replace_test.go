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

// newDisk is a disk full of what nobody ever wrote.
func (p *Pair) newDisk() *blktest.Disk {
	d := blktest.NewDisk(p.W, fmt.Sprint("new", p.W.Now), DiskBytes, 200_000)
	b := make([]byte, DiskBytes)
	for i := range b {
		b[i] = byte(p.W.Rand.Uint32())
	}
	d.Restore(b)
	d.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes = p.W.Rand.IntN(2) == 0, p.W.Rand.IntN(2) == 0 })
	return d
}

// replaceDisk loses the primary's data disk under load, or has the user give a good one up, and puts
// a new one in its place, with crashes and cuts at any time. It may return before the new disk is full.
func (p *Pair) replaceDisk() {
	p.until("in sync", func() bool { return p.state(p.At) == mirror.StateInSync })
	m := p.M[p.At]
	// While the volume is remote a peer that is away for long is an error.
	p.ErrorsOK, p.Load.ErrorsOK = true, true
	died := p.W.Rand.IntN(2) == 0
	if died {
		m.Data.Dead = true
		p.until("remote", func() bool {
			p.Load.Left = max(p.Load.Left, 5)
			return p.state(p.At) == mirror.StateRemote
		})
		p.trouble(false)
	}
	p.until("the user may replace the disk", func() bool {
		p.trouble(false)
		if m.Node == nil || !m.Node.Ready() {
			return false
		}
		if p.W.Rand.IntN(3) == 0 {
			p.Load.Left = max(p.Load.Left, 3)
		}
		return m.Node.Replace() == nil && m.Node.Replaceable()
	})
	m.Data, m.Gone = p.newDisk(), false
	p.refill()
	for n := p.W.Rand.IntN(4000); n > 0 && p.state(p.At) == mirror.StateRemote; n-- {
		if p.W.Rand.IntN(10) == 0 {
			p.Load.Left = max(p.Load.Left, 5)
		}
		p.Turn()
		p.trouble(p.W.Rand.IntN(2) == 0)
		p.refill()
	}
	if p.W.Rand.IntN(4) == 0 && m.Node.Status().RefillTotal > 0 {
		p.until("the log says so", func() bool { return m.Cache.Log().Updated() > 0 && !m.Cache.Log().Busy() })
		return // it goes on in the background
	}
	p.until("live again", func() bool {
		p.refill()
		return p.state(p.At) != mirror.StateRemote && m.Node.Ready()
	})
}

// refill begins to fill the new disk, unless that is under way: a crash may have come before the log knew.
func (p *Pair) refill() {
	if n := p.M[p.At].Node; n.Replaceable() && n.Status().RefillTotal == 0 {
		if err := n.Refill(p.M[p.At].Data); err != nil {
			fail("refill: %v", err)
		}
	}
}

// replaceLog loses the primary's log under load and has the next life begin with a new one.
func (p *Pair) replaceLog() {
	p.until("in sync", func() bool { return p.state(p.At) == mirror.StateInSync })
	m := p.M[p.At]
	p.ErrorsOK, p.Load.ErrorsOK = true, true
	// What async has acknowledged and not sent would go with the log.
	p.until("level", func() bool {
		st := m.Node.Status()
		return p.Load.Done() && st.RemoteDurable == st.Sealed && st.State == mirror.StateInSync
	})
	m.Log.Dead = true
	p.until("remote", func() bool {
		p.Load.Left = max(p.Load.Left, 5)
		return p.state(p.At) == mirror.StateRemote
	})
	if p.W.Rand.IntN(3) == 0 {
		m.Data.Dead = true // both of them
	}
	for n := p.W.Rand.IntN(1000); n > 0; n-- {
		if p.W.Rand.IntN(10) == 0 {
			p.Load.Left = max(p.Load.Left, 5)
		}
		p.Turn()
		switch p.W.Rand.IntN(500) {
		case 0:
			p.Net.Break(Data)
		case 1:
			p.Crash(1 - p.At)
			p.Start(1 - p.At)
		}
	}
	p.Load.Left = max(p.Load.Left, p.W.Rand.IntN(9))
	for range p.W.Rand.IntN(10) {
		p.Turn()
	}
	if err := m.Node.HoldForLog(true); err != nil {
		fail("hold: %v", err)
	}
	var s seglog.Super
	p.until("a point where a new log begins", func() (ok bool) { s, ok = m.Node.LogPoint(); return ok })
	log := blktest.NewDisk(p.W, fmt.Sprint("log", p.W.Now), LogBytes, 60_000)
	s.Log, s.ChunkBytes, s.CheckpointBytes = seglog.UUID{byte(p.W.Now)}, 32<<10, 0
	first := s
	first.Start, first.Marks = seglog.Point{}, seglog.Ended
	for _, err := range []error{seglog.Create(log, first, p.W.Drive), seglog.Begin(log, s, p.W.Drive)} {
		if err != nil {
			fail("make a log: %v", err)
		}
	}
	p.until("the peer forgets", func() bool { return m.Node.Forgo() })
	for end := p.W.Now + p.W.Rand.Int64N(2)*300_000_000; p.W.Now < end; p.Turn() { // a primary with nothing to do declares what is durable
	}
	if got := m.Cache.Log().Sealed() + 1; got != s.Start.LSN {
		fail("the new log begins at LSN %d, and the old one went on to %d", s.Start.LSN, got)
	}
	// With the log the data disk may have gone: what it lacked lay there.
	died := s.Marks&seglog.NeedsRefill != 0
	m.Gone = m.Data.Dead
	p.Crash(p.At)
	m.Log, p.Load = log, nil
	p.Start(p.At)
	p.until("the primary serves again", func() bool { return m.Node.Ready() })
	if err := p.Oracle.Pin(p.readAll(p.At), 0); err != nil {
		fail("with a new log: %v", err)
	}
	p.Events = append(p.Events, fmt.Sprintf("%d: 0 serves with a new log", p.W.Now))
	if !died {
		return
	}
	p.until("the user may replace the disk, too", func() bool { return m.Node.Replace() == nil && m.Node.Replaceable() })
	m.Data, m.Gone = p.newDisk(), false
	p.refill()
	p.until("live again", func() bool { return p.state(p.At) != mirror.StateRemote })
}

// trouble now and then breaks or cuts the link, or crashes a machine, while the volume is remote.
func (p *Pair) trouble(more bool) {
	if p.W.Rand.IntN(1200) > 0 && !(more && p.W.Rand.IntN(300) == 0) {
		return
	}
	turns := func(n int) {
		for range 1 + p.W.Rand.IntN(n) {
			p.Turn()
		}
	}
	m := p.M[p.At]
	both := p.W.Rand.IntN(3)
	if p.W.Rand.IntN(2) == 0 {
		// Slow logs: what is on its way is durable on one side, or nowhere, for long.
		until := p.W.Now + p.W.Rand.Int64N(3_000_000)
		m.Log.StuckUntil(until)
		if p.W.Rand.IntN(2) == 0 {
			p.M[1-p.At].Log.StuckUntil(until)
			both = 0
		}
		p.Load.Left = max(p.Load.Left, 5)
		turns(60)
	}
	switch p.W.Rand.IntN(6) {
	case 0:
		p.Net.Break(Data)
	case 1:
		p.Net.Cut = [2]bool{p.W.Rand.IntN(2) == 0, p.W.Rand.IntN(2) == 0}
		turns(600)
		p.Net.Cut = [2]bool{}
	case 2, 3:
		p.Crash(1 - p.At)
		turns(300)
		p.Start(1 - p.At)
	default:
		dead := m.Data.Dead
		if both == 0 {
			p.Crash(1 - p.At)
			p.Crash(p.At)
			p.Start(1 - p.At)
		} else {
			p.Crash(p.At)
		}
		p.Load = nil
		turns(100)
		// A disk that died is gone, or comes back as it was then.
		m.Gone = dead && p.W.Rand.IntN(2) == 0
		p.Start(p.At)
		p.until("the primary serves again", func() bool { return m.Node.Ready() })
		if err := p.Oracle.Pin(p.readAll(p.At), 0); err != nil {
			fail("the primary after its crash: %v", err)
		}
	}
}

// The peer has noted that this side needs a refill, and the session ends before this side knows: it
// relied on nobody, so it is not fenced; with a disk that is lost it then goes remote.
func TestNoteWithoutAnswer(t *testing.T) {
	for _, died := range []bool{false, true} {
		p := NewPair(6, mirror.Sync, t.Fatalf)
		turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
		p.Load.ErrorsOK = true
		noted := false
		p.Net.Tap = func(from int, f *wire.Frame) {
			if from == 0 && f.Kind == wire.Mark && f.Flags == wire.FactRefill {
				noted, p.Net.Cut = true, [2]bool{false, true}
			}
		}
		if died {
			p.M[0].Data.Dead, p.Load.Left = true, 200
		} else if err := p.M[0].Node.Replace(); err != nil {
			t.Fatal(err)
		}
		turnUntil(t, p, func() bool { return noted && !p.M[0].Node.Status().Connected })
		p.M[0].Node.KeepDisk()
		p.Net.Tap, p.Net.Cut = nil, [2]bool{}
		if p.M[1].Cache.Log().Super().Marks&seglog.PeerNeedsRefill == 0 {
			t.Fatal("the peer noted nothing")
		}
		want := mirror.StateInSync
		if died {
			want = mirror.StateRemote
		}
		turnUntil(t, p, func() bool { return p.state(0) == want && p.Load.Done() })
		for range 200 {
			p.Turn()
		}
		if marks := p.M[1].Cache.Log().Super().Marks; marks&seglog.PeerNeedsRefill != 0 != died {
			t.Errorf("died %v: %v", died, marks)
		}
		p.Free()
	}
}

// A primary that dies while its new disk is being filled, and comes back behind a promoted peer, is no
// copy: it cannot be promoted, and gets everything.
func TestHalfFilledDiskComesBackAsSecondary(t *testing.T) {
	p := NewTunedPair(6, mirror.Sync, t.Fatalf, func(o *mirror.Options) { o.RateLimit = 4 << 20 })
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.Left = 100
	turnUntil(t, p, p.Load.Done)
	m := p.M[0]
	turnUntil(t, p, func() bool { return m.Node.Replace() == nil && m.Node.Replaceable() })
	m.Data = p.newDisk()
	if err := m.Node.Refill(m.Data); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { return m.Node.Status().RefillDone > DiskBytes/2 })
	if err := m.Node.Replace(); err == nil || !strings.Contains(err.Error(), "filled already") {
		t.Errorf("a second replacement: %v", err)
	}
	p.Crash(0)
	p.Load = nil
	turnUntil(t, p, func() bool { return !p.M[1].Node.Status().Connected })
	if err := p.M[1].Node.Promote(false); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { return p.M[1].Node.Ready() })
	m.Primary = false
	p.Start(0)
	log := m.Cache.Log()
	if err := log.Sync(log.Update(mirror.AsDemoted), p.W.Drive); err != nil {
		t.Fatal(err)
	}
	if st := m.Node.Status(); !st.Inconsistent() {
		t.Errorf("it is %s (%v)", st.State, st.Marks)
	}
	if err := m.Node.Promote(true); err == nil {
		t.Error("it was promoted")
	}
	turnUntil(t, p, func() bool { return p.state(1) == mirror.StateInSync })
	if got := strings.Join(p.Events, "\n"); !strings.Contains(got, "1 session connecting→up: full sync") {
		t.Error(got)
	}
	if err := p.M[1].Node.Drain(false); err != nil {
		t.Fatal(err)
	}
	turnUntil(t, p, func() bool { done, _ := p.M[1].Node.Drained(); return done })
	if a, b := m.Data.Crash().Bytes(), p.M[1].Data.Crash().Bytes(); !bytes.Equal(a, b) {
		t.Error("the disks differ")
	}
}

// What may not take a data disk's place is refused, and leaves everything as it is.
func TestReplaceRefuses(t *testing.T) {
	p := NewPair(6, mirror.Sync, t.Fatalf)
	defer p.Free()
	m := p.M[0]
	if err := m.Node.Replace(); err == nil || !strings.Contains(err.Error(), "not in sync") {
		t.Errorf("before the first sync: %v", err)
	}
	if err := p.M[1].Node.Replace(); err == nil {
		t.Error("a secondary")
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	if err := m.Node.Refill(p.newDisk()); err == nil {
		t.Error("although the old disk is good")
	}
	turnUntil(t, p, func() bool { return m.Node.Replace() == nil && m.Node.Replaceable() })
	for what, change := range map[string]func(i *blk.Info){
		"small": func(i *blk.Info) { i.SizeBytes -= 512 }, "read-only": func(i *blk.Info) { i.ReadOnly = true }, "zoned": func(i *blk.Info) { i.Zoned = true }, "large blocks": func(i *blk.Info) { i.LogicalBytes = 4096 },
	} {
		d := p.newDisk()
		d.SetInfo(change)
		if err := m.Node.Refill(d); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if p.state(0) != mirror.StateRemote {
		t.Errorf("the volume is %s", p.state(0))
	}
}
