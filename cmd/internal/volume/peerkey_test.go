package volume

import (
	"context"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/link"
)

// The key of the first session's peer is remembered on both sides, and asked for from then on; a volume that has a
// peer invites nobody. The user's word lets another one in.
func TestThePeersKey(t *testing.T) {
	m := newMachines(t)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: m.file("b", testDiskBytes, nil), Listen: "127.0.0.1:0"})
	invited := func() bool {
		lines, err := m.sec.invitation()
		if err != nil {
			t.Error(err)
		}
		return len(lines) > 0 && strings.Contains(strings.Join(lines, "\n"), "robib1-")
	}
	if !invited() {
		t.Error("a new secondary prints no token")
	}
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, nil), Remote: m.sec.stack.address()})
	m.inSync()
	m.stop(m.pri)
	key, _, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	m.until(m.sec, "it is remembered", func() bool { return m.sec.conf().PeerKey != "" })
	for _, name := range []string{"a", "b"} {
		c, err := LoadConfig(name)
		if err != nil || c.PeerKey != key.Fingerprint() {
			t.Errorf("%s: peer %q, %v", name, c.PeerKey, err)
		}
	}
	if invited() {
		t.Error("a secondary that has its primary prints a token")
	}
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	m.inSync()
	set := func(v string) {
		t.Helper()
		if _, err := m.pri.Do(context.Background(), "set", control.Args{Set: map[string]string{"peer-key": v}}, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	set("sha256:" + strings.Repeat("00", 32))
	m.look(m.pri, func(n *mirror.Node) { n.Disconnect(true); n.Disconnect(false) })
	m.until(m.pri, "it is refused", func() bool { return strings.Contains(m.pri.stack.node.Status().LastError, link.ErrOtherPeer.Error()) })
	set("any")
	m.inSync()
	m.stop(m.pri)
	m.stop(m.sec)
}
