package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// What a lost primary had more is named: its segments, their bytes, and for how long it was not heard.
func TestMissingIsNamed(t *testing.T) {
	p := NewTunedPair(5, mirror.Async, t.Fatalf, func(o *mirror.Options) {
		if o.Primary {
			o.RateLimit = 2 << 20
		}
	})
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	sec := p.M[1].Node
	if m := sec.Missing(); m.To != 0 || m.Bytes != 0 {
		t.Errorf("level, but %+v", m)
	}
	p.Load.Left = 400
	turnUntil(t, p, func() bool { m := sec.Missing(); return m.To > m.From+10 })
	m := sec.Missing()
	if own := p.M[1].Cache.Log().Sealed(); m.From != own+1 {
		t.Errorf("%+v, and this side has LSN %d", m, own)
	}
	var bytes int64
	for lsn := m.From; lsn <= m.To; lsn++ {
		s, ok := p.M[0].Cache.Log().Lookup(lsn)
		if !ok {
			t.Fatalf("the primary never had LSN %d of %+v", lsn, m)
		}
		bytes += int64(s.Bytes)
	}
	// Padding, and what is left unused where a segment would cross a chunk's end.
	if most := bytes + int64(m.To-m.From+1)*512 + 2*8<<10; m.Bytes < bytes || m.Bytes > most {
		t.Errorf("%+v: they are %d bytes", m, bytes)
	}
	p.Crash(0)
	p.Load = nil
	turnUntil(t, p, func() bool { return !sec.Status().Connected })
	at := p.W.Now
	p.W.AdvanceTo(at + 1_000_000_000)
	p.Turn()
	if late := sec.Missing(); late.From < m.From || late.To < m.To || late.Bytes <= 0 || late.SilentNanos < 1_000_000_000 || !late.Acknowledged {
		t.Errorf("a second later %+v, before %+v", late, m)
	}
	var zero seglog.LSN
	if err := sec.Promote(false); err != nil || p.M[1].Cache.Log().Sealed() == zero {
		t.Error(err)
	}
}
