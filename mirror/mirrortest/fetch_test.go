package mirrortest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// A segment that was durable and is rotten comes from the peer, whichever side it is; then the log
// opens, nothing is lost and nothing behind the hole was cut.
func TestDamagedSegmentComesFromThePeer(t *testing.T) {
	for _, side := range []int{0, 1} {
		t.Run(fmt.Sprint("machine ", side), func(t *testing.T) {
			p := NewPair(3, mirror.Sync, func(f string, a ...any) { t.Fatalf(f, a...) })
			turnUntil(t, p, func() bool { return p.M[0].Node.Status().State == mirror.StateInSync })
			p.M[0].Cache.HoldDestage(true)
			p.M[1].Cache.HoldDestage(true)
			p.Load.Left = 12
			turnUntil(t, p, p.Load.Done)
			m := p.M[side]
			l := m.Cache.Log()
			bad := l.Durable() - 3
			s, ok := l.Lookup(bad)
			if !ok || bad < l.First() {
				t.Fatalf("LSN %d of %d to %d", bad, l.First(), l.Durable())
			}
			at := l.DeviceOffset(s.Pos)
			p.Crash(side)
			m.Log.RotRange(at, int64(s.Bytes))
			_, err := dcd.Open(dcd.Options{Data: m.Data, Log: m.Log, Incarnation: 1, Follow: side == 1}, p.W.Drive)
			var e *seglog.CorruptError
			if !errors.As(err, &e) || e.LSN != bad {
				t.Fatalf("%v, and LSN %d is damaged", err, bad)
			}
			drive := func() (blk.Instant, error) {
				p.Turn()
				return p.W.Time(), nil
			}
			net := p.Net.Start(side)
			if raw, err := mirror.Fetch(net, drive, seglog.UUID{8}, bad); err == nil {
				t.Fatalf("%d bytes of another volume", len(raw))
			}
			if _, err := mirror.Fetch(net, drive, seglog.UUID{9}, bad+1000); err == nil {
				t.Fatal("a segment that nobody ever sealed")
			}
			wrong, err := mirror.Fetch(net, drive, seglog.UUID{9}, bad+1)
			if err != nil || seglog.Repair(m.Log, e, wrong, p.W.Drive) == nil {
				t.Fatalf("another segment in its place: %v", err)
			}
			raw, err := mirror.Fetch(net, drive, seglog.UUID{9}, bad)
			if err != nil {
				t.Fatal(err)
			}
			if err := seglog.Repair(m.Log, e, raw, p.W.Drive); err != nil {
				t.Fatal(err)
			}
			p.Start(side)
			turnUntil(t, p, func() bool { return p.M[0].Node.Status().State == mirror.StateInSync })
			if got := p.M[side].Cache.Log().Sealed(); got < bad+3 {
				t.Fatalf("the log ends at LSN %d", got)
			}
			b, err := blktest.ReadAll(p.M[side].Cache, drive)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Oracle.Pin(b, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func turnUntil(t *testing.T, p *Pair, ok func() bool) {
	t.Helper()
	for range 200_000 {
		if ok() {
			return
		}
		p.Turn()
	}
	t.Fatal("it never comes to that")
}
