package volume

import (
	"errors"
	"strings"
	"testing"
)

// Of a known volume nothing is ignored: what can be chosen only when it is made is refused, unless it says what is so.
func TestKnownVolumeIgnoresNothing(t *testing.T) {
	m := newMachines(t)
	q := Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, nil), DeviceID: -1, LogBytes: 16 << 20, Remote: "127.0.0.1:9", DegradedOK: true}
	q.RAMBytes = 8 << 20
	p, err := Prepare(q)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	for flag, change := range map[string]func(q *Request){
		"--create-log": func(q *Request) { q.CreateLog = true }, "--log-size": func(q *Request) { q.LogBytes = 32 << 20 },
		"--ram": func(q *Request) { q.RAMBytes = 16 << 20 }, "--degraded-ok": func(q *Request) { q.DegradedOK = true },
	} {
		again := q
		again.DegradedOK = false
		change(&again)
		var usage *UsageError
		if p, err := Prepare(again); !errors.As(err, &usage) || !strings.Contains(err.Error(), flag) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", flag, err)
			if err == nil {
				p.Close()
			}
		}
	}
	q.DegradedOK = false
	if p, err = Prepare(q); err != nil {
		t.Fatalf("what is so already: %v", err)
	}
	p.Close()
}
