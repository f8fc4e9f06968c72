package volume

import (
	"context"
	"sync"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/mirror"
)

// Settings change while status is asked for and the loop says what happens: the race detector sees whether
// they may, and each change counts.
func TestSettingsWhileItServes(t *testing.T) {
	m := newMachines(t)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: m.file("b", testDiskBytes, nil), Listen: "127.0.0.1:0"})
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, nil), Remote: m.sec.stack.address()})
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := m.pri.Status(); err != nil {
				t.Error(err)
			}
			m.look(m.pri, func(*mirror.Node) { m.pri.stack.event(mirror.Event{What: "test"}) })
		}
	})
	for _, mode := range []string{"async", "sync", "semisync"} {
		if _, err := m.pri.Do(context.Background(), "set", control.Args{Set: map[string]string{"mode": mode, "rate-limit": "10M"}}, func(string) {}); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
	m.until(m.pri, "the mode", func() bool { return m.pri.stack.node.Status().Mode == mirror.SemiSync })
	c, err := LoadConfig("a")
	if err != nil || c.Mode != "semisync" || c.RateLimit != 10_000_000 && c.RateLimit != 10<<20 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := m.pri.Do(context.Background(), "set", control.Args{Set: map[string]string{"start-wait": "5s", "remote-wait": "7s", "disk-deadline": "8s"}}, func(string) {}); err != nil {
		t.Error(err)
	}
	in := func() {
		t.Helper()
		v, err := m.pri.Status()
		if err != nil {
			t.Fatal(err)
		}
		if l := v.(Status).Limits; l.StartWait != 5 || l.RemoteWait != 7 || l.DiskDeadline != 8 || l.Connect != 10 || l.Backoff != 0.1 || l.BackoffTo != 10 {
			t.Errorf("%+v", l)
		}
	}
	in()
	m.stop(m.pri)
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	in()
	m.stop(m.pri)
	m.stop(m.sec)
}
