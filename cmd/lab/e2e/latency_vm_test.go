//go:build vm

package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The latency report of a volume on a real device: writes are there with the server's own stages, and
// the probes do not hurt a server that is killed.
func TestLatency(t *testing.T) {
	withProbes(t)
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "v").Device
	ended, wait := background(t, dev, job{"4k", 16, 1})
	pause(ended, 2)
	out := robib(t, "-j", "latency", "show", "v", "duration", "4")
	var r struct {
		Operations []struct {
			Operation string `json:"operation"`
			Count     uint64 `json:"count"`
			Stages    []struct {
				Stage string `json:"stage"`
				Count uint64 `json:"count"`
			} `json:"stages"`
		} `json:"operations"`
		Counts struct {
			Completed uint64 `json:"completed"`
			Matched   uint64 `json:"matched"`
		} `json:"counts"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Counts.Completed == 0 || r.Counts.Matched < r.Counts.Completed*9/10 {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(out, `"log`) {
		t.Errorf("no stage of the log: %s", out)
	}
	t.Log(robib(t, "latency", "show", "v", "duration", "2"))
	t.Log(robib(t, "latency", "probes", "v"))
	kill9(t, "v")
	wait()
	if b, err := os.ReadFile("/var/log/robib-ublk/v.log"); err == nil && strings.Contains(string(b), "panic") {
		t.Errorf("%s", b)
	}
	robib(t, "del", "v")
}
