package volume

import (
	"context"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/mirror"
)

// A copy whose primary was heard a moment ago waits until that counts as lost, or is back; with force it does not.
func TestPromoteWaitsForAPrimaryThatMayBeStarting(t *testing.T) {
	for _, force := range []bool{false, true} {
		m := newMachines(t)
		m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: m.file("b", testDiskBytes, nil), Listen: "127.0.0.1:0", Settings: Settings{Heartbeat: 100, PeerDead: 400}})
		m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, nil), Remote: m.sec.stack.address()})
		m.inSync()
		m.look(m.sec, func(n *mirror.Node) { n.Disconnect(true) })
		var left int64
		m.look(m.sec, func(n *mirror.Node) { left = n.Restarting() })
		if left <= 0 {
			t.Error("the primary was heard long ago")
		}
		var said []string
		r, err := m.sec.takeRole(context.Background(), control.Args{Force: force}, func(p string) { said = append(said, p) })
		waited := strings.Contains(strings.Join(said, "\n"), "may only be starting again")
		if err != nil || r.Planned || waited == force || !force && r.SilentSeconds < 0.4 {
			t.Errorf("force %v: %+v, %v; said %q", force, r, err, said)
		}
		m.stop(m.pri)
		m.stop(m.sec)
	}
}
