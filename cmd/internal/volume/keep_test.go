package volume

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Both sides wrote, and the user gives one of them up: it takes the other's data, and what only it had can
// be listed, and found in the file. If it cannot be kept, nothing is given up.
func TestDiscardedTailIsKept(t *testing.T) {
	m := newMachines(t)
	diskA, diskB := m.file("disk-a", testDiskBytes, nil), m.file("disk-b", testDiskBytes, nil)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: diskB, Listen: "127.0.0.1:0"})
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: diskA, Remote: m.sec.stack.address()})
	m.inSync()
	buf, err := blk.Alloc(8192)
	if err != nil {
		t.Fatal(err)
	}
	put := func(off int64, b byte) []byte {
		copy(buf, bytes.Repeat([]byte{b}, len(buf)))
		m.do(blk.Write, off, buf)
		return bytes.Clone(buf)
	}
	put(0, 1)
	m.look(m.sec, func(n *mirror.Node) { n.Disconnect(true) })
	m.until(m.pri, "degraded", func() bool { return m.pri.stack.node.Status().State == mirror.StateDegraded })
	goes := [][]byte{put(16384, 3), put(65536, 4)}
	if r, err := m.sec.takeRole(context.Background(), control.Args{}, quiet); err != nil || r.Planned {
		t.Fatal(r, err)
	}
	a, b := m.pri, m.sec
	m.pri = b
	m.until(b, "it serves", func() bool { return b.stack.node.Ready() })
	// With its first segments given back it could not tell any more where the two sides part.
	m.look(b, func(*mirror.Node) { b.stack.cache.HoldDestage(true) })
	stays := put(8192, 2)
	m.look(b, func(n *mirror.Node) { n.Disconnect(false) })
	if err := a.demote(context.Background(), control.Args{Force: true}, quiet); err != nil {
		t.Fatal(err)
	}
	<-a.quit
	<-m.closed[a]
	for _, f := range []*os.File{a.o.In.Disk, a.o.In.Log} {
		f.Close()
	}
	if k, err := ListKept("", false); len(k) != 0 || err != nil {
		t.Fatal(k, err)
	}

	// The place for it cannot be made: nothing is given up.
	if err := os.WriteFile(keptDir(""), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.discard = true
	m.sec = m.serve(Request{Role: Secondary, Name: "a", Disk: diskA})
	m.until(m.sec, "it says why not", func() bool {

		return strings.Contains(m.sec.stack.node.Status().LastError, "keep what is given up")
	})
	if marks := m.sec.stack.cache.Log().Super().Marks; marks&seglog.Inconsistent != 0 {
		t.Fatalf("and gave it up: %v", marks)
	}
	if err := os.Remove(keptDir("")); err != nil {
		t.Fatal(err)
	}
	m.inSync()
	if m.do(blk.Read, 8192, buf); !bytes.Equal(buf, stays) {
		t.Error("the one that stays lost its data")
	}

	list, err := ListKept("a", true)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	k := list[0]
	if k.Name != "a" || k.Error != "" || k.Records != 2 || k.Bytes != 2*8192 || k.Term != 1 || k.Last < k.First+1 || k.Volume == "" || k.At == "" {
		t.Errorf("%+v", k)
	}
	raw, err := os.ReadFile(k.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i, off := range []int64{16384, 65536} {
		if r := k.List[i]; r.Offset != off || r.Length != 8192 || r.Kind != seglog.Data || !bytes.Equal(raw[r.At:][:8192], goes[i]) {
			t.Errorf("write %d: %+v", i, r)
		}
	}
	if err := os.WriteFile(k.Path, raw[:len(raw)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if cut, err := ListKept("", false); err != nil || len(cut) != 1 || cut[0].Error == "" || cut[0].Segments != k.Segments-1 {
		t.Errorf("of a file that was cut: %+v, %v", cut, err)
	}
	if none, err := ListKept("b", true); err != nil || len(none) != 0 {
		t.Error(none, err)
	}
	if _, err := ListKept("../b", true); err == nil {
		t.Error("a path")
	}
	m.stop(m.pri)
	m.stop(m.sec)
}
