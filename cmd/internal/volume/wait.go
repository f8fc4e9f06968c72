package volume

import (
	"fmt"
	"time"

	"github.com/robib-ublk/robib/mirror"
)

const nanosPerMilli = int64(time.Millisecond)

// ParseWait reads a time, such as 5s or 500ms, and gives it in ms.
func ParseWait(text string) (millis int64, err error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond {
		return 0, fmt.Errorf("%q: a time such as 5s or 500ms", text)
	}
	return d.Milliseconds(), nil
}

// waitText shows what ParseWait reads; 0 ms stand for the default, which is in ns.
func waitText(millis, byDefault int64) string {
	d := time.Duration(millis) * time.Millisecond
	if millis == 0 {
		d = time.Duration(byDefault)
	}
	return d.String()
}

// checkTiming refuses what would take a peer for dead that is not, as wrong usage.
func (c *Config) checkTiming() error {
	if err := mirror.CheckTiming(c.Heartbeat*nanosPerMilli, c.PeerDead*nanosPerMilli); err != nil {
		return Usagef("heartbeat, peer-dead: %v", err)
	}
	return nil
}
