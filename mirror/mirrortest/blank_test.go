package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// A primary that starts without its log does not know what of it had reached its data disk: nothing is
// read from there.
func TestStartWithoutLog(t *testing.T) {
	p := NewPair(4, mirror.Sync, t.Fatalf)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.M[0].Cache.HoldDestage(true)
	p.Load.Left = 12
	turnUntil(t, p, p.Load.Done)
	m := p.M[0]
	old := *m.Cache.Log().Super()
	p.Crash(0)
	p.Load = nil
	s := &seglog.Super{Volume: old.Volume, DiskBytes: DiskBytes, DiskBlock: 512, BlockBytes: 512, RingBytes: LogBytes, ChunkBytes: LogBytes, MaxSegmentBytes: old.MaxSegmentBytes, RingOffset: 1 << 20,
		Start: seglog.Point{LSN: 1}, Marks: seglog.HasPeer | seglog.Degraded | seglog.Ahead}
	c, err := dcd.Open(dcd.Options{Data: m.Data, Super: s, Incarnation: 7}, p.W.Drive)
	if err != nil {
		t.Fatal(err)
	}
	n, err := mirror.New(mirror.Options{Cache: c, Net: p.Net.Start(0), Primary: true, Mode: mirror.Sync, Drive: p.W.Drive, Random: p.W.Rand.Uint64, Lost: true, Blank: true})
	if err != nil {
		t.Fatal(err)
	}
	m.Cache, m.Node = c, n
	p.all = append(p.all, &Machine{Cache: c, Node: n})
	turnUntil(t, p, func() bool { return n.Ready() })
	if err := p.Oracle.Pin(p.readAll(0), 0); err != nil {
		t.Fatal(err)
	}
}
