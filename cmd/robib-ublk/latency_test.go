package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/volume"
)

func TestLatencyWords(t *testing.T) {
	w, err := parseWords([]string{"duration", "0.5", "threshold", "20ms", "rate", "7", "op", "write_zeroes"}, words{interval: time.Second}, "threshold", "rate", "op")
	if err != nil || w.duration != time.Second/2 || w.threshold != 20*time.Millisecond || w.rate != 7 || w.Op != "write_zeroes" || w.interval != time.Second || !w.has["rate"] || w.has["interval"] {
		t.Errorf("%+v, %v", w, err)
	}
	all := []string{"threshold", "rate", "op", "stage", "interval"}
	for _, list := range [][]string{{"op"}, {"op", "eat"}, {"stage", "x"}, {"duration", "-1"}, {"duration", "NaN"}, {"duration", "1e30"}, {"duration", "-3s"}, {"interval", "1ns"},
		{"threshold", "0"}, {"rate", "0"}, {"rate", "x"}, {"wat", "1"}, {"op", "read", "op", "read"}} {
		var usage *volume.UsageError
		if _, err := parseWords(list, words{}, all...); !errors.As(err, &usage) {
			t.Errorf("%q: %v", list, err)
		}
	}
	if _, err := parseWords([]string{"op", "read"}, words{}); err == nil {
		t.Error("a word of another command")
	}
}

func TestLatencyRefusesWhatHasNoRequests(t *testing.T) {
	for _, path := range []string{"/etc/passwd", "/nope/nope", "/dev/null"} {
		var usage *volume.UsageError
		if _, err := (&looked{Dev: path}).report(words{duration: time.Second}); !errors.As(err, &usage) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What cannot become a picture is refused before anything is counted, and leaves no file.
func TestLatencyPlotRefuses(t *testing.T) {
	dir := t.TempDir()
	cmd := func(out string, list ...string) error {
		return (&LatencyPlotCmd{Output: filepath.Join(dir, out), looked: looked{Dev: "/dev/null", Words: list}}).Run(&CLI{})
	}
	for _, x := range []struct {
		out   string
		words []string
	}{{"a.pdf", nil}, {"svg", nil}, {"a.svg", []string{"duration", "0"}}, {"a.svg", []string{"duration", "3600", "interval", "0.1"}}, {"a.svg", []string{"stage", "log"}}, {"a.png", nil}} {
		var usage *volume.UsageError
		if err := cmd(x.out, x.words...); !errors.As(err, &usage) {
			t.Errorf("%s %q: %v", x.out, x.words, err)
		}
	}
	if err := cmd("no/such/a.svg"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}
