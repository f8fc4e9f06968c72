package seglog

import (
	"errors"
	"testing"
)

func TestCheck(t *testing.T) {
	s, err := newSim(14)
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 4)
	var found []Finding
	check := func() (Summary, error) {
		found = nil
		return Check(s.dev, s.w.Drive, func(f Finding) { found = append(found, f) })
	}
	sum, err := check()
	if err != nil || len(found) != 0 || sum.Segments != 4 || sum.Records != 4 || sum.DirtyBytes != 4*512 || sum.Last != 4 {
		t.Fatalf("%+v %v %v", sum.Segments, found, err)
	}
	g, _ := s.l.Lookup(4)
	b := append([]byte(nil), s.dev.Bytes()...)
	b[s.l.DeviceOffset(g.Pos)+600] ^= 1
	s.dev.Restore(b)
	if sum, err = check(); err != nil || !sum.TornTail || len(found) != 1 || found[0].Bad {
		t.Fatalf("torn: %v %v", found, err)
	}
	g, _ = s.l.Lookup(2)
	b[s.l.DeviceOffset(g.Pos)+600] ^= 1
	s.dev.Restore(b)
	var c *CorruptError
	if _, err = check(); !errors.As(err, &c) || c.LSN != 2 || len(found) != 1 || !found[0].Bad {
		t.Fatalf("rot: %v %v", found, err)
	}
}
