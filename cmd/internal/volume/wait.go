package volume

import (
	"fmt"
	"time"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/link"
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
	for _, w := range []struct {
		name   string
		millis int64
	}{{"start-wait", c.StartWait}, {"remote-wait", c.RemoteWait}, {"disk-deadline", c.DiskDeadline}} {
		if err := mirror.CheckWaits(w.millis * nanosPerMilli); err != nil {
			return Usagef("%s: %v", w.name, err)
		}
	}
	return nil
}

// waitSetting is a setting of a time, kept in ms.
func waitSetting(name, help string, byDefault int64, at func(c *Config) *int64) Setting {
	return Setting{name, help, func(c *Config) string { return waitText(*at(c), byDefault) }, func(c *Config, v string) (err error) {
		*at(c), err = ParseWait(v)
		return err
	}}
}

// putWaits puts the waits of c in force; on the loop's thread.
func (k *stack) putWaits(c *Config) {
	k.node.SetTiming(c.Heartbeat*nanosPerMilli, c.PeerDead*nanosPerMilli)
	k.node.SetWaits(c.StartWait*nanosPerMilli, c.RemoteWait*nanosPerMilli)
	k.cache.SetDiskDeadline(c.DiskDeadline * nanosPerMilli)
}

// Limits are the waits that are in force, in seconds.
type Limits struct {
	StartWait    float64 `json:"start_wait_s"`  // a primary that starts asks for its peer
	Reattach     float64 `json:"reattach_s"`    // after a server's death the next one serves at once
	RemoteWait   float64 `json:"remote_wait_s"` // a remote volume's I/O waits for the peer
	DiskDeadline float64 `json:"disk_deadline_s"`
	Connect      float64 `json:"connect_s"`     // for one of the peer's addresses to answer, and again for the handshake
	Backoff      float64 `json:"backoff_s"`     // after the first failed attempt
	BackoffTo    float64 `json:"backoff_to_s"`  // at most
	OtherPaths   float64 `json:"other_paths_s"` // they are tried before the loss of one counts
}

func limits(st *mirror.Status) Limits {
	s := func(ns int64) float64 { return float64(ns) / 1e9 }
	w := &st.Waits
	return Limits{s(w.StartWait), s(w.Reattach), s(w.Remote), s(st.DiskNanos), link.ConnectLimit.Seconds(), s(w.Backoff), s(w.BackoffTo), s(w.Paths)}
}
