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
			h.net.wear = wear{fresh: 60, most: 160} // both directions of it, and room for what goes on meanwhile
		}
		p.until("in sync", p.inSync)
		before := p.half[0].node.Status().Sessions
		want := make([]byte, ramBytes)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 400 {
			at := r.IntN(ramBytes/4096) * 4096
			b := fill(want[at:][:4096], i)
			p.write(int64(at), b)
			if c := p.half[0].net.conn; c.sealed > c.wear.most {
				t.Fatalf("%d records with the same keys", c.sealed)
			}
		}
		p.same(want)
		log := strings.Join(append(p.half[0].events, p.half[1].events...), "\n")
		if n := p.half[0].node.Status().Sessions - before; n < 3 || strings.Contains(log, "writes: served→") || strings.Contains(log, "degraded") {
			t.Errorf("%d sessions:\n%s", n, log)
		}
		t.Log(p.half[0].node.Status().Sessions, "sessions for 400 writes")
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
