package main

import (
	"errors"
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
