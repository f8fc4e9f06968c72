package link

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/uring"
)

// Sessions whose keys are worn are replaced under load by sessions with fresh ones: no write fails, none is
// acknowledged by one side alone, and both disks are what was written.
func TestFreshKeys(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		p := newNodePair(t, l, func(addr string) []string { return []string{addr} }, func(o *mirror.Options) { o.OnDisconnect = mirror.Error })
		defer p.close()
		for _, h := range p.half {
			h.net.wear = wear{fresh: 40, most: 1 << 40} // both directions of it; how long a handshake takes, nobody knows
		}
		p.until("in sync", p.inSync)
		sessions := func() int { return p.half[0].node.Status().Sessions }
		want := make([]byte, ramBytes)
		r := rand.New(rand.NewPCG(1, 2))
		end := l.Now() + 60e9
		for i, last := 0, sessions()+5; sessions() < last; i++ {
			at := r.IntN(ramBytes/4096) * 4096
			p.write(int64(at), fill(want[at:][:4096], i))
			if l.Now() > end {
				t.Fatalf("%d sessions after %d writes", sessions(), i)
			}
		}
		p.same(want)
		log := strings.Join(append(p.half[0].events, p.half[1].events...), "\n")
		if strings.Contains(log, "writes: served→") || strings.Contains(log, "degraded") {
			t.Errorf("a write waited for the user's word:\n%s", log)
		}
	})
}

// A connection that nothing replaces ends before its keys are used too often.
func TestWornOut(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		p := newNodePair(t, l, func(addr string) []string { return []string{addr} }, nil)
		defer p.close()
		p.until("in sync", p.inSync)
		c := p.half[0].net.conn
		c.wear = wear{fresh: 1 << 60, most: c.sealed + 20}
		for i := range 30 {
			p.write(int64(i)*4096, fill(make([]byte, 4096), i))
		}
		if c.sealed > c.wear.most+1 || !errors.Is(c.err, errWornOut) && !strings.Contains(strings.Join(p.half[0].events, "\n"), errWornOut.Error()) {
			t.Errorf("%d records, %v:\n%s", c.sealed, c.err, strings.Join(p.half[0].events, "\n"))
		}
	})
}
