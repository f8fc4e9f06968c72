package volume

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/robib-ublk/robib/cmd/internal/metrics"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/link"
)

// Setting is one thing that `set` changes while a volume serves.
type Setting struct {
	Name string
	Help string
	get  func(c *Config) string
	set  func(c *Config, v string) error
}

// SettingList is all of them, in the order in which they are shown.
var SettingList = []Setting{
	{"mode", "sync, semisync or async", func(c *Config) string { return c.Mode }, func(c *Config, v string) error {
		m, err := mirror.ParseMode(v)
		if c.Mode = m.String(); err == nil && c.Role != Primary {
			err = errors.New("the primary sets the mode")
		}
		return err
	}},
	{"remote", "the peer's addresses, HOST:PORT, separated by commas", func(c *Config) string { return c.Remote }, func(c *Config, v string) error {
		addrs, err := link.ParseAddresses(v)
		if err == nil && c.Remote == "" {
			err = errors.New("this volume has no peer to dial")
		}
		c.Remote = strings.Join(addrs, ",")
		return err
	}},
	{"peer-key", "fingerprint of the one key that the peer may have, or any: the next trusted one it comes with", func(c *Config) string { return cmp.Or(c.PeerKey, "any") }, func(c *Config, v string) error {
		if v == "any" {
			v = ""
		} else if err := link.CheckFingerprint(v); err != nil {
			return err
		}
		c.PeerKey = v
		return nil
	}},
	{"rate-limit", "bytes of data sent to the peer per second, such as 10M, or off", func(c *Config) string { return rateText(c.RateLimit) }, func(c *Config, v string) (err error) {
		c.RateLimit, err = ParseRate(v)
		return err
	}},
	{"compress", "zstd or off: data on its way to the peer", func(c *Config) string { return cmp.Or(c.Compress, "off") }, func(c *Config, v string) (err error) {
		c.Compress, err = ParseCompress(v)
		return err
	}},
	{"on-disconnect", "what writes do when the peer is lost: continue, suspend or error", func(c *Config) string {
		d, _ := mirror.ParseOnDisconnect(c.OnDisconnect)
		return d.String()
	}, func(c *Config, v string) error {
		_, err := mirror.ParseOnDisconnect(v)
		c.OnDisconnect = v
		return err
	}},
	waitSetting("heartbeat", "how often the peer is asked whether it is there, such as 1s or 500ms", mirror.DefaultHeartbeat, func(c *Config) *int64 { return &c.Heartbeat }),
	waitSetting("peer-dead", "how long a silent peer is waited for: at least three heartbeats", mirror.DefaultPeerDead, func(c *Config) *int64 { return &c.PeerDead }),
	waitSetting("start-wait", "how long a primary that may start alone first asks for its peer", mirror.DefaultStartWait, func(c *Config) *int64 { return &c.StartWait }),
	waitSetting("remote-wait", "how long I/O waits for a peer that is away while the volume is remote", mirror.DefaultRemote, func(c *Config) *int64 { return &c.RemoteWait }),
	waitSetting("disk-deadline", "how long disk and log may take to answer before they count as failed", dcd.DefaultDiskNanos, func(c *Config) *int64 { return &c.DiskDeadline }),
	either("destage", "run, or pause: the data disk is let alone until the log is full", "run", "pause", func(c *Config) *bool { return &c.NoDestage }),
	either("resync", "run, or pause: full and map syncs and refills stand still, writes go on to the peer", "run", "pause", func(c *Config) *bool { return &c.NoResync }),
	linkSetting(),
	{"latency", "on or off: probes that time each request", func(c *Config) string {
		if c.NoLatency {
			return "off"
		}
		return "on"
	}, func(c *Config, v string) error {
		on, err := parseYesNo(v)
		c.NoLatency = !on
		return err
	}},
	{"low-water", "per cent of the log from which destage does not wait for an idle disk", func(c *Config) string {
		lo, _ := dcd.Watermarks(c.LowWater, c.HighWater)
		return strconv.Itoa(lo)
	},
		func(c *Config, v string) error { return percent(v, &c.LowWater) }},
	{"high-water", "per cent of the log from which writes are admitted as fast as space comes back", func(c *Config) string {
		_, hi := dcd.Watermarks(c.LowWater, c.HighWater)
		return strconv.Itoa(hi)
	},
		func(c *Config, v string) error { return percent(v, &c.HighWater) }},
	{"bypass", "MiB of a sequential run after which writes go past the log, when there is no peer; 0: never; default: 4 on a disk without an arm", func(c *Config) string {
		switch {
		case c.BypassMiB < 0:
			return "0"
		case c.BypassMiB == 0:
			return "default"
		}
		return strconv.Itoa(c.BypassMiB)
	}, func(c *Config, v string) (err error) {
		if v == "default" {
			c.BypassMiB = 0
			return nil
		}
		n, err := strconv.Atoi(v)
		if err == nil {
			n, err = ParseBypass(n)
		}
		if err != nil {
			return fmt.Errorf("%q: MiB of a sequential run, 0 for never, or default", v)
		}
		c.BypassMiB = n
		return nil
	}},
	{"ordered", "yes: destage in write order, segment by segment", func(c *Config) string { return yesNo(c.Ordered) }, func(c *Config, v string) (err error) {
		c.Ordered, err = parseYesNo(v)
		return err
	}},
	{"metrics", "where Prometheus finds the volume's metrics, [HOST]:PORT, or off", func(c *Config) string { return cmp.Or(c.Metrics, "off") }, func(c *Config, v string) (err error) {
		c.Metrics, err = metrics.ParseAddress(v)
		return err
	}},
}

// maxBypassMiB bounds a setting that nobody would mean to be larger.
const maxBypassMiB = 1 << 20

// bypassBytes is the bypass as the cache takes it.
func (c *Config) bypassBytes() int64 {
	if c.BypassMiB < 0 {
		return -1
	}
	return int64(c.BypassMiB) << 20
}

// either is a setting of two words; the second one is true.
func either(name, help, no, yes string, at func(c *Config) *bool) Setting {
	return Setting{name, help, func(c *Config) string {
		if *at(c) {
			return yes
		}
		return no
	}, func(c *Config, v string) error {
		if v != no && v != yes {
			return fmt.Errorf("%q: %s or %s", v, no, yes)
		}
		*at(c) = v == yes
		return nil
	}}
}

func linkSetting() Setting {
	s := either("link", "up, or down: no session with the peer is made", "up", "down", func(c *Config) *bool { return &c.Apart })
	word := s.set
	s.set = func(c *Config, v string) error {
		err := word(c, v)
		if err == nil && c.Remote == "" && c.Listen == "" {
			err = errors.New("this volume has no peer")
		}
		return err
	}
	return s
}

// ParseBypass gives what a configuration keeps of MiB of a sequential run: 0 is never there, and -1 here.
func ParseBypass(mib int) (int, error) {
	switch {
	case mib < 0 || mib > maxBypassMiB:
		return 0, fmt.Errorf("%d: MiB of a sequential run, or 0 for never", mib)
	case mib == 0:
		return -1, nil
	}
	return mib, nil
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

func parseYesNo(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "yes", "on", "true", "1":
		return true, nil
	case "no", "off", "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q: say yes or no", v)
}

// ParseCompress gives what a configuration keeps: zstd, or nothing for off.
func ParseCompress(v string) (string, error) {
	switch v {
	case "zstd":
		return v, nil
	case "off":
		return "", nil
	}
	return "", fmt.Errorf("%q: say zstd or off", v)
}

func percent(v string, to *int) error {
	n, err := strconv.Atoi(strings.TrimSuffix(v, "%"))
	if err != nil || n < 1 || n > 95 {
		return fmt.Errorf("%q: a number from 1 to 95", v)
	}
	*to = n
	return nil
}

// Get shows every setting of a configuration.
func (c *Config) Get() map[string]string {
	m := map[string]string{}
	for _, s := range SettingList {
		m[s.Name] = s.get(c)
	}
	return m
}

// Change applies settings to a copy of c, or says which one is wrong.
func (c *Config) Change(set map[string]string) (*Config, error) {
	n := *c
	for name, v := range set {
		i := slices.IndexFunc(SettingList, func(s Setting) bool { return s.Name == name })
		if i < 0 {
			var known []string
			for _, s := range SettingList {
				known = append(known, s.Name)
			}
			return nil, Usagef("there is no setting %q; there are: %s", name, strings.Join(known, ", "))
		}
		if err := SettingList[i].set(&n, v); err != nil {
			return nil, Usagef("%s: %v", name, err)
		}
	}
	if lo, hi := dcd.Watermarks(n.LowWater, n.HighWater); lo >= hi {
		return nil, Usagef("low-water %d must be below high-water %d", lo, hi)
	}
	if err := n.checkTiming(); err != nil {
		return nil, err
	}
	return &n, nil
}

// set changes settings of the running volume: remembered first, then put in force.
func (s *Server) set(want map[string]string) (any, error) {
	was := s.conf()
	n, err := was.Change(want)
	if err != nil {
		return nil, err
	}
	keep := func() (err error) {
		n, err = s.rewrite(func(c *Config) error {
			x, err := c.Change(want)
			if err == nil {
				*c = *x
			}
			return err
		})
		return err
	}
	if _, asked := want["metrics"]; asked {
		err = s.moveMetrics(n.Metrics, keep)
	} else {
		err = keep()
	}
	if err != nil {
		return nil, err
	}
	off := was.NoLatency
	if s.live && n.NoLatency != off {
		if err := s.untrace(); err != nil {
			return nil, err
		}
		s.trace(s.dev)
	}
	mode, err := mirror.ParseMode(n.Mode)
	if err != nil {
		return nil, err
	}
	lost, err := mirror.ParseOnDisconnect(n.OnDisconnect)
	if err != nil {
		return nil, err
	}
	if s.stack.net != nil {
		s.stack.net.expect(n.PeerKey)
	}
	if n.Remote != "" {
		addrs, err := link.ParseAddresses(n.Remote)
		if err != nil {
			return nil, err
		}
		s.stack.net.dial.SetAddresses(addrs)
	}
	e := s.stack.call(func() {
		s.stack.cache.Tune(n.LowWater, n.HighWater, n.Ordered, n.bypassBytes())
		if n.Role == Primary {
			s.stack.node.SetMode(mode)
			s.stack.node.SetOnDisconnect(lost)
		}
		s.stack.pauses(n)
		s.stack.putWaits(n)
		err = errors.Join(s.stack.node.SetRateLimit(n.RateLimit), s.stack.node.SetCompress(n.Compress != ""))
	})
	return n.Get(), errors.Join(e, err)
}
