package volume

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A peer that comes and goes every 10 ms writes a burst of lines and then one every ten seconds; the last
// change is never missing, and after a quiet time a burst is written again.
func TestChangesAreLimited(t *testing.T) {
	var lines []string
	now := time.Unix(1000, 0)
	type due struct {
		at time.Time
		f  func()
	}
	var timers []due
	c := newChanges(func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
	c.now = func() time.Time { return now }
	c.later = func(d time.Duration, f func()) { timers = append(timers, due{now.Add(d), f}) }
	pass := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(10 * time.Millisecond) {
			for len(timers) > 0 && !timers[0].at.After(now) {
				f := timers[0].f
				timers = timers[1:]
				f()
			}
		}
	}
	const n = 6000 // a minute
	for i := range n {
		c.say("change %d", i)
		pass(10 * time.Millisecond)
	}
	if len(lines) < changeBurst || len(lines) > changeBurst+7 {
		t.Errorf("%d lines of %d changes in a minute", len(lines), n)
	}
	pass(changeEvery)
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, fmt.Sprintf("change %d (", n-1)) || !strings.Contains(last, "are left out") {
		t.Errorf("at last: %s", last)
	}
	seen := 0
	for _, l := range lines {
		var at, left int
		fmt.Sscanf(l, "change %d (%d changes", &at, &left)
		seen += 1 + left
	}
	if seen != n {
		t.Errorf("%d of %d changes are written or counted", seen, n)
	}
	pass(changeBurst * changeEvery)
	lines = nil
	for i := range changeBurst {
		c.say("again %d", i)
	}
	if len(lines) != changeBurst || strings.Contains(strings.Join(lines, ""), "left out") {
		t.Errorf("after a quiet time: %q", lines)
	}
	c.say("one too many")
	c.flush() // the server ends
	c.flush()
	if len(lines) != changeBurst+1 || lines[changeBurst] != "one too many" {
		t.Errorf("at the end: %q", lines)
	}
}
