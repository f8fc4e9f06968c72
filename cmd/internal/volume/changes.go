package volume

import (
	"fmt"
	"sync"
	"time"
)

// Limits of the lines that tell of changes of state: a peer that comes and goes fills no disk.
const (
	changeBurst = 60               // lines that may follow each other
	changeEvery = 10 * time.Second // then one in this time
)

// changes writes one line for each change of state, at most so many: while there are too many only the
// newest is kept, and written when its time has come, with how many were left out. Any goroutine.
type changes struct {
	logf  func(format string, args ...any)
	now   func() time.Time
	later func(d time.Duration, f func()) // calls f on another goroutine

	mu     sync.Mutex
	full   time.Time // when the allowance is whole again
	last   string    // not written yet; "": nothing is kept
	missed int       // before it
}

func newChanges(logf func(format string, args ...any)) *changes {
	return &changes{logf: logf, now: time.Now, later: func(d time.Duration, f func()) { time.AfterFunc(d, f) }}
}

// say writes the line, or keeps it.
func (c *changes) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	if c.last != "" {
		c.last = line
		c.missed++
		return
	}
	now := c.now()
	if c.full.Before(now) {
		c.full = now
	}
	if c.full = c.full.Add(changeEvery); c.full.Sub(now) > changeBurst*changeEvery {
		c.last = line
		c.later(changeEvery, c.flush)
		return
	}
	c.logf("%s", line)
}

// flush writes what is kept.
func (c *changes) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == "" {
		return
	}
	if c.missed > 0 {
		c.last += fmt.Sprintf(" (%d changes before it are left out: too many)", c.missed)
	}
	c.logf("%s", c.last)
	c.last, c.missed = "", 0
}
