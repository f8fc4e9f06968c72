package volume

import (
	"testing"
	"time"

	"github.com/robib-ublk/robib/mirror"
)

// Also of a stopped copy it is told whether it may be used: its log knows.
func TestStoppedCopy(t *testing.T) {
	m := newMachines(t)
	q := Request{Role: Secondary, Name: "b", Disk: m.file("b", testDiskBytes, nil), Listen: "127.0.0.1:0"}
	p, err := Prepare(Request{Role: Secondary, Name: q.Name, Disk: q.Disk, Listen: q.Listen, LogBytes: 16 << 20, DeviceID: -1})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	look := func() Status {
		t.Helper()
		c, err := LoadConfig("b")
		if err != nil {
			t.Fatal(err)
		}
		return Stopped(c)
	}
	if v := look(); !v.Inconsistent || v.State != "stopped" || v.Marks == "" {
		t.Errorf("a copy that never met its primary: %+v", v)
	}
	m.sec = m.serve(q)
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, randomBytes(4096)), Remote: m.sec.stack.address()})
	m.inSync()
	m.stop(m.pri)
	m.stop(m.sec)
	if v := look(); v.Inconsistent || v.Term != 1 {
		t.Errorf("a copy that is complete: %+v", v)
	}
	other := *p.Config
	other.LogID = "another"
	if v := Stopped(&other); v.Inconsistent || v.Term != 0 {
		t.Errorf("of another volume's log: %+v", v)
	}
}

// What del says it waits for: a volume without a second copy waits for no peer.
func TestDraining(t *testing.T) {
	c := &Config{Name: "a", Disk: "/dev/sdx"}
	for _, x := range []struct {
		left int64
		peer mirror.Status
		want string
	}{
		{4096, mirror.Status{State: mirror.StateAlone}, "emptying the log into /dev/sdx: at most 4 KiB left"},
		{0, mirror.Status{State: mirror.StateAlone}, "the log is empty; its end is being written"},
		{0, mirror.Status{State: mirror.StateInSync, Connected: true}, "the log is empty; its end is being written"},
		{0, mirror.Status{State: mirror.StateDegraded, LastError: "no route"}, "the log is empty; waiting for the peer to come back and get level (no route); ^C and `robib-ublk del --force a` ends without it"},
	} {
		if got := draining(c, x.left, x.peer); got != x.want {
			t.Errorf("%d bytes left, %s: %q, want %q", x.left, x.peer.State, got, x.want)
		}
	}
}

func TestOften(t *testing.T) {
	var o often
	begun := time.Unix(1000, 0)
	for _, x := range []struct {
		after time.Duration
		n     uint64
		want  float64
	}{{500 * time.Millisecond, 7, 0}, {2 * time.Second, 10, 5}, {2500 * time.Millisecond, 100, 5}, {4 * time.Second, 110, 50}, {14 * time.Second, 110, 0}} {
		if got := o.since(begun.Add(x.after), x.n, begun); got != x.want {
			t.Errorf("after %v: %v a second, want %v", x.after, got, x.want)
		}
	}
}
