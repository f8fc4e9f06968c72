package mirror

import (
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// A sync is staged where its blocks and their heads fit, at a peer that can, and whose old copy is worth keeping.
func TestStages(t *testing.T) {
	const mib = 1 << 20
	for _, x := range []struct {
		name   string
		left   int64
		change func(p *wire.HelloMsg)
		want   bool
	}{
		{"fits", 8 * mib, func(*wire.HelloMsg) {}, true},
		{"fits to the byte", 10 * mib * 8 / 9 / 4096 * 4096, func(*wire.HelloMsg) {}, true},
		{"its heads do not", 9 * mib, func(*wire.HelloMsg) {}, false},
		{"large heads", 6 * mib, func(p *wire.HelloMsg) { p.LogBlock = 4096 }, false},
		{"too large", 11 * mib, func(*wire.HelloMsg) {}, false},
		{"an older peer", mib, func(p *wire.HelloMsg) { p.Offered, p.StageRoom = 0, 0 }, false},
		{"no room", mib, func(p *wire.HelloMsg) { p.StageRoom = 0 }, false},
		{"a new peer", mib, func(p *wire.HelloMsg) { p.New = true }, false},
		{"given up by the user", mib, func(p *wire.HelloMsg) { p.Discard = true }, false},
		{"inconsistent", mib, func(p *wire.HelloMsg) { p.Marks = uint32(seglog.Inconsistent) }, false},
		{"staged already", mib, func(p *wire.HelloMsg) { p.Marks, p.Staging = uint32(seglog.Inconsistent), true }, true},
	} {
		log, err := seglog.Open(nil, seglog.Options{Super: &seglog.Super{DiskBytes: 64 * mib, DiskBlock: 512, BlockBytes: 512, RingOffset: 1 << 20, RingBytes: 16 * mib, ChunkBytes: 16 * mib,
			MaxSegmentBytes: mib, DirtyBytes: mib, Start: seglog.Point{LSN: 1}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := &Node{cache: &dcd.Cache{}, log: log}
		n.o.Sync.fill()
		n.full.n = n
		p := &n.s.view.Peer
		*p = wire.HelloMsg{Offered: wire.Features, LogBlock: 512, DiskBlock: 512, StageRoom: 10 * mib}
		x.change(p)
		if n.full.left = x.left; n.full.stages() != x.want {
			t.Errorf("%s: %v", x.name, !x.want)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
