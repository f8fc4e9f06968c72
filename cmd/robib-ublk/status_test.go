package main

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/mirror/wire"
)

// The connection's own round trip is told where there is a connection.
func TestStatusShowsNetwork(t *testing.T) {
	s := volume.Status{Name: "v", Role: "secondary", Listen: ":1"}
	for _, want := range []string{"", "\tnetwork  data connection: TCP round trip 0.25 ms, least 0.20 ms; 3 MiB not acknowledged, 7 segments sent again\n"} {
		var b strings.Builder
		if printStatus(&b, &s); !strings.Contains(b.String(), want) || strings.Contains(b.String(), "\tnetwork") != (want != "") {
			t.Errorf("want %q:\n%s", want, b.String())
		}
		s.Network = &wire.Sockets{Data: &wire.TCP{RTTNanos: 250e3, MinRTTNanos: 200e3, SendQueueBytes: 3 << 20, Retransmits: 7}}
	}
}

// Of a peer that is behind status shows why, and when it will be level or that it never will be.
func TestStatusShowsCatchUp(t *testing.T) {
	eta := 30.0
	s := volume.Status{Name: "v", Role: "primary", Remote: "b:1", Connected: true, BacklogBytes: 12 << 20, BacklogSeconds: 3.4, ShipRate: 2 << 20, WriteRate: 1 << 20, CatchUpSeconds: &eta}
	show := func() string {
		var b strings.Builder
		printStatus(&b, &s)
		return b.String()
	}
	if got := show(); strings.Contains(got, "backlog") {
		t.Errorf("what is under way is no backlog:\n%s", got)
	}
	s.CatchUpReason = "stream: it was away"
	if got := show(); !strings.Contains(got, "\tcatch_up  stream: it was away\n\tbacklog  12 MiB, 3.4 s; 2 MiB/s shipped, 1 MiB/s written; level in 30 s\n") {
		t.Error(got)
	}
	s.CannotKeepUp, s.CatchUpSeconds = true, nil
	if got := show(); !strings.Contains(got, "written; CANNOT KEEP UP: ") || strings.Contains(got, "level in") {
		t.Error(got)
	}
	s.Connected, s.CannotKeepUp = false, false
	if got := show(); !strings.Contains(got, "\tbacklog  12 MiB, 3.4 s\n") {
		t.Error(got)
	}
}

// Status shows both connections of a session, and why the second one is not there.
func TestStatusShowsTheControlConnection(t *testing.T) {
	s := volume.Status{Name: "v", Role: "primary", Remote: "b:1", Connected: true, Control: true}
	show := func() string {
		var b strings.Builder
		printStatus(&b, &s)
		return b.String()
	}
	if got := show(); !strings.Contains(got, "\tcontrol  up: ") {
		t.Error(got)
	}
	s.Control, s.ControlReason = false, "the peer's version has none"
	if got := show(); !strings.Contains(got, "\tcontrol  down, heartbeats go with the data: the peer's version has none\n") {
		t.Error(got)
	}
	s.Connected = false
	if got := show(); strings.Contains(got, "control") {
		t.Error(got)
	}
}
