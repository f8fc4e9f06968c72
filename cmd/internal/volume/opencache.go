package volume

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
)

// maxRepairs bounds how many damaged segments are fetched before the log counts as lost.
const maxRepairs = 4096

// openCache opens the cache; a segment that was durable and is damaged is fetched from the peer first.
func (k *stack) openCache(o dcd.Options, drive blk.Drive) (*dcd.Cache, error) {
	for n := 0; ; n++ {
		c, err := dcd.Open(o, drive)
		var bad *seglog.CorruptError
		if errors.Is(err, seglog.ErrReadError) && o.Log != nil && k.startsRemote(&o, err, true) {
			continue
		}
		if !errors.As(err, &bad) || o.Log == nil || n == maxRepairs {
			return c, err
		}
		if k.net == nil {
			if k.net, _ = openNetwork(k.loop, k.s.conf(), k.paired, k.alarm); k.net == nil {
				return nil, fmt.Errorf("%w (`robib-ublk log check %s` says more, and `robib-ublk log rescue` saves what there is)", err, k.s.conf().Log)
			}
		}
		k.s.o.Logf("%s: segment %d of the log is damaged: asking the peer for it", k.s.conf().Name, bad.LSN)
		ticking := func() (blk.Instant, error) {
			now, err := k.loop.Once(k.loop.Now() + int64(poll))
			return instant(now), err
		}
		s, e := seglog.Probe(o.Log, drive)
		if e == nil {
			var raw []byte
			if raw, e = mirror.Fetch(k.net, ticking, s.Volume, bad.LSN); e == nil {
				e = seglog.Repair(o.Log, bad, raw, drive)
			}
		}
		if e != nil && k.startsRemote(&o, err, s.Marks&(seglog.Degraded|seglog.Ahead) == 0 && s.Marks&seglog.HasPeer != 0) {
			continue
		}
		if e != nil {
			return nil, fmt.Errorf("%w; %w (`robib-ublk log check %s` says more; a peer that was in sync has everything: `robib-ublk promote` there)", err, e, k.s.conf().Log)
		}
		k.s.o.Logf("%s: segment %d of the log was written anew from the peer's copy", k.s.conf().Name, bad.LSN)
	}
}

// startsRemote gives up a log that cannot be opened where a peer can stand in for it, as for one that is missing.
// peer: it lacks nothing that was acknowledged, as far as is known.
func (k *stack) startsRemote(o *dcd.Options, why error, peer bool) bool {
	c := k.s.conf()
	if !peer || c.Role != Primary || c.Remote == "" && c.Listen == "" || c.WriteCache || k.s.o.New {
		return false
	}
	k.s.o.Logf("%s: the log %s cannot be used, and the volume starts remote: %v", c.Name, c.Log, why)
	o.Log, o.Super, k.log = nil, blankSuper(c), nil
	return true
}
