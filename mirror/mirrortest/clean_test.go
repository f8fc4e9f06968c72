package mirrortest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// A new peer's disk that is taken for equal gets nothing but what is written, and keeps what else it
// holds; the next new peer gets everything.
func TestAssumeClean(t *testing.T) {
	p := NewCleanPair(3, mirror.Sync, t.Fatalf, nil)
	defer p.Free()
	marker := bytes.Repeat([]byte("different"), 512)[:512]
	p.M[1].Data.RestoreRange(DiskBytes-512, marker)
	synced := int64(0)
	p.Net.Tap = func(from int, f *wire.Frame) {
		if f.Kind == wire.Resync {
			synced += int64(len(f.Body))
		}
	}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	if synced != 0 {
		t.Errorf("%d bytes were copied", synced)
	}
	if m := p.M[0].Cache.Log().Super().Marks; m&seglog.AssumedClean != 0 {
		t.Errorf("it would trust another peer, too: %v", m)
	}
	p.Load.Region = DiskBytes / 2
	p.Load.Left = 100
	turnUntil(t, p, p.Load.Done)
	p.M[1].Cache.DestageAll(true)
	turnUntil(t, p, func() bool { return p.M[1].Cache.Dirty() == 0 })
	b := p.M[1].Data.Bytes()
	if !bytes.Equal(b[DiskBytes-512:], marker) {
		t.Error("what differed was copied")
	}
	if !bytes.Equal(b[:DiskBytes/2], p.readAll(0)[:DiskBytes/2]) {
		t.Error("what was written is not there")
	}

	p.Crash(1)
	turnUntil(t, p, func() bool { return !p.M[0].Node.Status().Connected })
	p.newLog(DiskBytes)
	p.Start(1)
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	if got := strings.Join(p.Events, "\n"); synced == 0 || !strings.Contains(got, "up: full sync the peer is new") {
		t.Errorf("%d bytes were copied to a blank disk:\n%s", synced, got)
	}
	if !bytes.Equal(p.readAll(1), p.readAll(0)) {
		t.Error("the copies differ")
	}
}
