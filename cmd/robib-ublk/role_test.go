package main

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// What promote may have lost is named as far as it is known: LSN, bytes, seconds, and whether it was acknowledged.
func TestPromoteSaysWhatMayBeLost(t *testing.T) {
	for _, c := range []struct {
		r    volume.Promoted
		want string
	}{
		{volume.Promoted{Planned: true}, "nothing is lost"},
		{volume.Promoted{MissingFrom: 7, MissingTo: 9, MissingBytes: 12288}, "LSN 7 to 9 (at most 12 KiB of log), which were never acknowledged"},
		{volume.Promoted{MissingFrom: 7, MissingTo: 9, MissingBytes: 1536, MayMiss: true, SilentSeconds: 5.25}, "LSN 7 to 9 (at most 1.5 KiB of log), and what followed in the 5.2 s since"},
		{volume.Promoted{MissingFrom: 7, MissingTo: 9, MayMiss: true}, "LSN 7 to 9, and what"}, // an older primary did not say
		{volume.Promoted{MayMiss: true, SilentSeconds: 2}, "in the 2.0 s since"},
	} {
		if got := lost(&c.r); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.r, got, c.want)
		}
	}
	if got := lost(&volume.Promoted{}); got != "" {
		t.Errorf("%q, and nothing is", got)
	}
}
