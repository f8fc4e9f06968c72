package benchrun

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel counts exactly how long the CPU had nothing to do, but shows whole steps of
// USER_HZ. A step's edge is found by short sleeps until the figure moves.
const (
	idleStep  = 10 * time.Millisecond
	idleSleep = 200 * time.Microsecond
	idleTries = 10_000
)

// idle reads how many steps the one CPU had nothing to do, whether something waited for a disk or not.
func idle() (int64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseIdle(string(b))
}

func parseIdle(stat string) (int64, error) {
	var user, nice, system, idle, waiting int64
	if _, err := fmt.Sscanf(stat, "cpu %d %d %d %d %d", &user, &nice, &system, &idle, &waiting); err != nil {
		return 0, fmt.Errorf("/proc/stat: %w: %q", err, strings.SplitN(stat, "\n", 2)[0])
	}
	return idle + waiting, nil
}

// edge is the moment at which a step of idle time was complete.
type edge struct {
	at     time.Time
	steps  int64
	sleeps int // that it took to find it
}

func nextEdge() (edge, error) {
	first, err := idle()
	if err != nil {
		return edge{}, err
	}
	for n := 1; n <= idleTries; n++ {
		t := unix.NsecToTimespec(int64(idleSleep))
		if err := unix.Nanosleep(&t, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return edge{}, err
		}
		now, err := idle()
		if err != nil {
			return edge{}, err
		}
		if now != first {
			return edge{time.Now(), now, n}, nil
		}
	}
	return edge{}, errors.New("/proc/stat: idle time does not pass")
}

// busy measures for how long the CPU had something to do while f ran, to about 0.2 ms: where
// time is instructions, how many instructions that took.
func busy(f func() error) (time.Duration, error) {
	begun, err := nextEdge()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	// The search for the edge after f is work, too: what one sleep of it costs is seen over the next step.
	ended, err := nextEdge()
	if err != nil {
		return 0, err
	}
	next, err := nextEdge()
	if err != nil {
		return 0, err
	}
	return busyBetween(begun, ended, next), nil
}

func busyBetween(begun, ended, next edge) time.Duration {
	work := func(a, b edge) time.Duration { return b.at.Sub(a.at) - time.Duration(b.steps-a.steps)*idleStep }
	return work(begun, ended) - work(ended, next)*time.Duration(ended.sleeps)/time.Duration(next.sleeps)
}
