package volume

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRate(t *testing.T) {
	for _, x := range []struct {
		text string
		want int64
	}{{"off", 0}, {"10M", 10 << 20}, {"10m", 10 << 20}, {"500K/s", 500 << 10}, {"1.5G", 3 << 29}, {"100mbit", 12_500_000}, {"1gbit", 125_000_000}, {"8MiB", 8 << 20}, {"123456", 123456}, {"200000b", 200000}} {
		got, err := ParseRate(x.text)
		if err != nil || got != x.want {
			t.Errorf("%q: %d %v, want %d", x.text, got, err, x.want)
		}
		if again, err := ParseRate(rateText(got)); err != nil || again != got {
			t.Errorf("%q reads back as %d %v", rateText(got), again, err)
		}
	}
	for _, bad := range []string{"", "x", "M", "-5M", "1", "15K", "10T", "1e9", "nan", "inf", "0x100000", "10 M", "+5M", "99999999999G", "0"} {
		if got, err := ParseRate(bad); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q gave %d", bad, got)
		}
	}
}

// Every setting reads back what it shows, and refuses nonsense as wrong usage.
func TestSettings(t *testing.T) {
	c := &Config{Name: "v", Role: Primary, Remote: "a:1", Mode: "sync"}
	for _, s := range SettingList {
		n, err := c.Change(map[string]string{s.Name: s.get(c)})
		if err != nil {
			t.Errorf("%s=%s: %v", s.Name, s.get(c), err)
		} else if n.Get()[s.Name] != s.get(c) {
			t.Errorf("%s=%s reads back as %s", s.Name, s.get(c), n.Get()[s.Name])
		}
		_, err = c.Change(map[string]string{s.Name: "!"})
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.HasPrefix(err.Error(), s.Name+": ") {
			t.Errorf("%s=!: %v", s.Name, err)
		}
	}
	for _, x := range []struct{ name, value, shown string }{
		{"mode", "A", "async"}, {"remote", "b:2, c:3", "b:2,c:3"}, {"rate-limit", "2048K", "2M"}, {"rate-limit", "off", "off"}, {"compress", "zstd", "zstd"}, {"compress", "off", "off"},
		{"peer-key", "sha256:" + strings.Repeat("0a", 32), "sha256:" + strings.Repeat("0a", 32)}, {"peer-key", "any", "any"},
		{"metrics", ":9469", ":9469"}, {"metrics", "[::1]:9469", "[::1]:9469"}, {"metrics", "off", "off"},
		{"latency", "off", "off"}, {"latency", "yes", "on"}, {"destage", "pause", "pause"}, {"destage", "run", "run"}, {"resync", "pause", "pause"}, {"link", "down", "down"}, {"link", "up", "up"},
		{"heartbeat", "500ms", "500ms"}, {"heartbeat", "1.5s", "1.5s"}, {"peer-dead", "3000ms", "3s"}, {"peer-dead", "2m", "2m0s"},
		{"start-wait", "10s", "10s"}, {"remote-wait", "1h", "1h0m0s"}, {"disk-deadline", "5s", "5s"},
	} {
		n, err := c.Change(map[string]string{x.name: x.value})
		if err != nil || n.Get()[x.name] != x.shown {
			t.Errorf("%s=%s: %v", x.name, x.value, err)
		}
	}
	for _, bad := range []map[string]string{{"heartbeat": "2s"}, {"peer-dead": "2999ms"}, {"heartbeat": "99ms"}, {"peer-dead": "11m"}, {"heartbeat": "61s", "peer-dead": "10m"}, {"heartbeat": "5"}, {"peer-dead": "-5s"}, {"heartbeat": "0s"}, {"start-wait": "999ms"}, {"remote-wait": "61m"}, {"disk-deadline": "-1s"}} {
		var usage *UsageError
		if _, err := c.Change(bad); !errors.As(err, &usage) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if n, err := c.Change(map[string]string{"heartbeat": "10s", "peer-dead": "30s"}); err != nil || n.Heartbeat != 10_000 || n.PeerDead != 30_000 {
		t.Errorf("both at once: %v", err)
	}
	if _, err := (&Config{Role: Secondary, Listen: ":1"}).Change(map[string]string{"remote": "a:1"}); err == nil {
		t.Error("a secondary took a remote")
	}
}
