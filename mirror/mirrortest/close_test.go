package mirrortest

import (
	"testing"

	"github.com/robib-ublk/robib/mirror"
)

// A loop that ends turns once more after its node was closed, at whatever moment of a full sync that is:
// nothing of what came over the session that is gone is touched.
func TestKickAfterClose(t *testing.T) {
	for turns := range 150 {
		p := NewPair(5, mirror.Sync, t.Fatalf)
		p.turns(turns)
		for i, m := range p.M {
			before := len(p.Events)
			if err := m.Node.Close(); err != nil {
				t.Fatal(err)
			}
			events := len(p.Events)
			m.Node.Kick(p.W.Time())
			if len(p.Events) != events {
				t.Errorf("after %d turns machine %d does %v after its end", turns, i, p.Events[before:])
			}
		}
		for _, m := range p.all {
			m.Cache.Close()
		}
	}
}
