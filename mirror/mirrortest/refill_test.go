package mirrortest

import (
	"bytes"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// quiet turns the world until no machine has anything on its way to its log.
func (p *Pair) quiet() {
	p.until("the logs are quiet", func() bool {
		for _, m := range p.M {
			if m.Cache.Log().Busy() || m.Cache.Log().Unwritten() || m.Log.Busy() > 0 {
				return false
			}
		}
		return true
	})
}

// alone is a request nobody waits for.
type alone struct {
	blk.Request
	done bool
}

func (a *alone) Complete(*blk.Request) { a.done = true }

// submit has machine i's client write value, and does not wait.
func (p *Pair) submit(i int, off, n int64, value uint64) *alone {
	a := &alone{Request: blk.Request{Op: blk.Write, Offset: off, Length: n, Buf: make([]byte, 33<<10)[:n]}}
	a.Owner = a
	blktest.Fill(a.Buf, off, value)
	p.M[i].Node.Device().Submit(&a.Request)
	return a
}

// refillAheadOfTheLogs lets the last block of a refill come with a write that neither log has durably
// yet, and cuts the power of both machines before they have it.
func refillAheadOfTheLogs() (err error) {
	var p *Pair
	defer catch(9, &p, &err)
	const at, n, slow = DiskBytes - 8<<10, 4 << 10, 10_000_000_000
	p = NewPair(9, mirror.Sync, fail)
	p.W.Batch = 1 // or what takes long would come at once, as one of several
	defer p.Free()
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	m := p.M[0]
	p.write(0, at, n, 100)
	p.until("the disk may be replaced", func() bool { return m.Node.Replace() == nil && m.Node.Replaceable() })
	m.Data = p.newDisk()
	if err := m.Node.Refill(m.Data); err != nil {
		fail("refill: %v", err)
	}
	p.until("all but the last block is filled", func() bool { return m.Node.Status().RefillDone >= DiskBytes-16<<10 })
	m.Node.PauseResync(true)
	p.turns(200)
	p.quiet()
	if st := m.Node.Status(); st.RefillDone != DiskBytes-16<<10 {
		fail("%d of %d bytes are filled", st.RefillDone, st.RefillTotal)
	}

	sealed := m.Cache.Log().Sealed()
	for _, m := range p.M {
		m.Log.SlowNth(blk.Write, 1, slow)
	}
	// The peer takes the question for the block and the write behind it in one batch.
	asked, sent := false, false
	p.Net.Tap = func(from int, f *wire.Frame) {
		asked = asked || f.Kind == wire.ReadRequest
		sent = sent || f.Kind == wire.Segment
	}
	peer := p.M[1]
	p.M[1] = &Machine{}
	m.Node.PauseResync(false)
	p.until("the block is asked for", func() bool { return asked })
	w := p.submit(0, at, n, 101)
	p.until("the write is there", func() bool { return sent && p.Net.sides[0].live[Data].flying == 0 })
	p.M[1] = peer
	end := p.W.Now + slow/100
	p.until("time passes", func() bool { return p.W.Now >= end })
	if st := m.Node.Status(); w.done || st.RefillTotal > 0 && st.RefillDone != DiskBytes || m.Cache.Log().Durable() != sealed || p.M[1].Cache.Log().Durable() != sealed {
		fail("written %v, filled %d, durable LSN %d and %d of %d", w.done, st.RefillDone, m.Cache.Log().Durable(), p.M[1].Cache.Log().Durable(), sealed+1)
	}
	for i, m := range p.M {
		p.Net.Stop(i)
		m.Data, m.Log = m.Data.CrashKeeping(true), m.Log.CrashKeeping(false)
	}
	p.Load = nil
	p.Start(1)
	p.Start(0)
	p.until("live again", func() bool { return p.state(0) == mirror.StateInSync })
	if err := m.Node.Drain(false); err != nil {
		fail("drain: %v", err)
	}
	p.until("drained", func() bool { done, _ := m.Node.Drained(); return done })
	a, b := m.Data.Bytes(), p.M[1].Data.Bytes()
	if v, err := blktest.Value(b[at:at+512], at/512); v != 100 || err != nil {
		fail("the peer holds write %d (%v)", v, err)
	}
	if !bytes.Equal(a, b) {
		fail("the new disk holds a write that neither log knows")
	}
	return nil
}

// A refilled block counts only once the log here has durably what was sealed when it came.
func TestRefillIsNotAheadOfTheLog(t *testing.T) {
	if err := refillAheadOfTheLogs(); err != nil {
		t.Fatal(err)
	}
}
