package mirrortest

import (
	"fmt"

	"github.com/robib-ublk/robib/mirror"
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
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	m := p.M[0]
	// While the volume is remote a peer that is away for long is an error.
	p.ErrorsOK, p.Load.ErrorsOK = true, true
	died := p.W.Rand.IntN(2) == 0
	if died {
		m.Data.Dead = true
		p.until("remote", func() bool {
			p.Load.Left = max(p.Load.Left, 5)
			return p.state(0) == mirror.StateRemote
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
	m.Data, m.Gone, m.NewDisk = p.newDisk(), false, true
	if err := m.Node.Refill(m.Data); err != nil {
		fail("refill: %v", err)
	}
	for n := p.W.Rand.IntN(4000); n > 0 && p.state(0) == mirror.StateRemote; n-- {
		if p.W.Rand.IntN(10) == 0 {
			p.Load.Left = max(p.Load.Left, 5)
		}
		p.Turn()
		p.trouble(p.W.Rand.IntN(2) == 0)
	}
	if p.W.Rand.IntN(4) == 0 {
		return // it goes on in the background
	}
	p.until("live again", func() bool { return p.state(0) != mirror.StateRemote && m.Node.Ready() })
	m.NewDisk = false
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
	m := p.M[0]
	both := p.W.Rand.IntN(3)
	if p.W.Rand.IntN(2) == 0 {
		// Slow logs: what is on its way is durable on one side, or nowhere, for long.
		until := p.W.Now + p.W.Rand.Int64N(3_000_000)
		m.Log.StuckUntil(until)
		if p.W.Rand.IntN(2) == 0 {
			p.M[1].Log.StuckUntil(until)
			both = 0
		}
		p.Load.Left = max(p.Load.Left, 5)
		turns(60)
	}
	switch p.W.Rand.IntN(6) {
	case 0:
		p.Net.Break()
	case 1:
		p.Net.Cut = [2]bool{p.W.Rand.IntN(2) == 0, p.W.Rand.IntN(2) == 0}
		turns(600)
		p.Net.Cut = [2]bool{}
	case 2, 3:
		p.Crash(1)
		turns(300)
		p.Start(1)
	default:
		dead := m.Data.Dead
		if both == 0 {
			p.Crash(1)
			p.Crash(0)
			p.Start(1)
		} else {
			p.Crash(0)
		}
		p.Load = nil
		turns(100)
		// A disk that died is gone, or comes back as it was then.
		m.Gone = dead && p.W.Rand.IntN(2) == 0
		p.Start(0)
		p.until("the primary serves again", func() bool { return m.Node.Ready() })
		if err := p.Oracle.Pin(p.readAll(0), 0); err != nil {
			fail("the primary after its crash: %v", err)
		}
	}
}
