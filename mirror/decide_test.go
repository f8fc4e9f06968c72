package mirror

import (
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// A row per rule and reason of the connect rules.
func TestDecide(t *testing.T) {
	base := func() View {
		h := wire.HelloMsg{Version: 1, MinVersion: 1, Volume: [16]byte{1}, DiskBytes: 1 << 20, DiskBlock: 512, MaxSegment: 1 << 20, Term: wire.Term{Number: 2, ID: 9},
			First: wire.Point{LSN: 10}, Last: wire.Point{LSN: 20}}
		v := View{Me: h, Peer: h, Common: 20, Known: true}
		v.Me.Primary, v.Me.Serving = true, true
		return v
	}
	rows := []struct {
		name   string
		change func(v *View)
		want   Verdict
		reason string
	}{
		{"level", func(v *View) {}, Streams, "level up to LSN 20"},
		{"behind", func(v *View) { v.Peer.Last.LSN, v.Common = 15, 15 }, Streams, "level up to LSN 15 of 20"},
		{"behind, empty log", func(v *View) { v.Peer.Last.LSN, v.Peer.First.LSN, v.Common = 9, 10, 9 }, Streams, "LSN 9"},
		{"new version", func(v *View) { v.Peer.MinVersion, v.Peer.Version = 9, 9 }, Refuses, "protocol versions 9 to 9"},
		{"feature", func(v *View) { v.Peer.Required = 4 }, Refuses, "requires features 0x4"},
		{"other volume", func(v *View) { v.Peer.Volume = [16]byte{7} }, Refuses, "another volume"},
		{"other volume, needs a refill", func(v *View) { v.Peer.Volume, v.Peer.New, v.Peer.Marks = [16]byte{7}, true, uint32(seglog.NeedsRefill) }, Refuses, "another volume"},
		{"other volume, needs a refill, taken for equal", func(v *View) { v.Peer.Volume, v.Peer.New, v.Clean = [16]byte{7}, true, true }, Refuses, "another volume"},
		{"needs a refill", func(v *View) { v.Peer.New, v.Peer.Marks = true, uint32(seglog.NeedsRefill) }, FullSyncs, "new"},
		{"no volume, and not new", func(v *View) { v.Peer.Volume = [16]byte{} }, Refuses, "another volume"},
		{"smaller disk", func(v *View) { v.Peer.DiskBytes-- }, Refuses, "smaller"},
		{"larger blocks", func(v *View) { v.Peer.DiskBlock = 4096 }, Refuses, "larger blocks"},
		{"small segments", func(v *View) { v.Peer.MaxSegment /= 2 }, Refuses, "segments"},
		{"promoted meanwhile", func(v *View) { v.Peer.Term.Number, v.Peer.Primary = 3, true }, Stops, "promoted"},
		{"demoted in a newer term, level", func(v *View) { v.Peer.Term.Number, v.Peer.Marks = 3, uint32(seglog.Demoted|seglog.Ahead) }, TakesTerm, "wrote nothing"},
		{"demoted in a newer term, behind", func(v *View) {
			v.Peer.Term.Number, v.Peer.Marks, v.Peer.Last.LSN, v.Common = 3, uint32(seglog.Demoted), 15, 15
		}, TakesTerm, "wrote nothing"},
		{"demoted in a newer term, and wrote", func(v *View) { v.Peer.Term.Number, v.Peer.Marks, v.Peer.Last.LSN = 3, uint32(seglog.Demoted), 25 }, Stops, "promoted"},
		{"demoted in a newer term, below the log", func(v *View) {
			v.Peer.Term.Number, v.Peer.Marks, v.Peer.Last.LSN, v.Known = 3, uint32(seglog.Demoted), 5, false
		}, Stops, "promoted"},
		{"demoted in a newer term, incomplete", func(v *View) { v.Peer.Term.Number, v.Peer.Marks = 3, uint32(seglog.Demoted|seglog.Inconsistent) }, Stops, "promoted"},
		{"follows a newer term", func(v *View) { v.Peer.Term.Number = 3 }, Stops, "promoted"},
		{"two primaries", func(v *View) { v.Peer.Primary, v.Peer.Term.ID = true, 8 }, Diverges, "both are primaries"},
		{"primary of an older term", func(v *View) { v.Peer.Primary, v.Peer.Term.Number = true, 1 }, Refuses, "the older term 1"},
		{"new peer", func(v *View) { v.Peer.New, v.Peer.Volume = true, [16]byte{} }, FullSyncs, "new"},
		{"new peer, taken for equal", func(v *View) { v.Peer.New, v.Peer.Volume, v.Clean = true, [16]byte{}, true }, MapSyncs, "taken for equal"},
		{"known peer of a clean volume", func(v *View) { v.Clean = true }, Streams, "level"},
		{"remote, new peer, taken for equal", func(v *View) { v.NoDisk, v.Peer.New, v.Clean = true, true, true }, Refuses, "lost"},
		{"new, but primary", func(v *View) { v.Peer.New, v.Peer.Primary = true, true }, Refuses, "without a volume"},
		{"inconsistent peer, map good", func(v *View) { v.Peer.Marks, v.MapGood = uint32(seglog.Inconsistent), true }, MapSyncs, "the map says what it lacks"},
		{"interrupted sync", func(v *View) {
			v.Peer.Marks, v.Me.Marks, v.MapGood, v.CanResume = uint32(seglog.Inconsistent), uint32(seglog.PeerNeedsFullSync), true, true
		}, Resumes, "on this chain"},
		{"interrupted sync, other chain", func(v *View) {
			v.Peer.Marks, v.CanResume, v.Peer.Last.LSN = uint32(seglog.Inconsistent), true, 25
		}, FullSyncs, "incomplete"},
		{"below the log, map good", func(v *View) { v.Peer.Last.LSN, v.MapGood = 8, true }, MapSyncs, "what changed between"},
		{"inconsistent peer", func(v *View) { v.Peer.Marks = uint32(seglog.Inconsistent) }, FullSyncs, "incomplete"},
		{"fell out of the log", func(v *View) { v.Me.Marks = uint32(seglog.PeerNeedsFullSync) }, FullSyncs, "not in the log any more"},
		{"fell out of the log, and wrote alone", func(v *View) {
			v.Me.Marks, v.Peer.Marks, v.Peer.Last.LSN = uint32(seglog.PeerNeedsFullSync), uint32(seglog.Ahead), 25
		}, Diverges, "both wrote after LSN 20"},
		{"fell out of the log, and wrote alone before", func(v *View) { v.Me.Marks, v.Peer.Marks = uint32(seglog.PeerNeedsFullSync), uint32(seglog.Ahead) }, FullSyncs, "not in the log any more"},
		{"fell out of the log, and wrote alone, it is not known since when", func(v *View) {
			v.Me.Marks, v.Peer.Marks, v.Known = uint32(seglog.PeerNeedsFullSync), uint32(seglog.Ahead), false
		}, AsksMore, "part"},
		{"below the log, and wrote alone", func(v *View) { v.Peer.Last.LSN, v.Peer.Marks = 8, uint32(seglog.Ahead) }, Diverges, "wrote alone"},
		{"below the log, and wrote alone what the map knows", func(v *View) { v.Peer.Last.LSN, v.Peer.Marks, v.MapGood = 8, uint32(seglog.Ahead), true }, MapSyncs, "what changed between"},
		{"below the log, and wrote alone, given up", func(v *View) { v.Peer.Last.LSN, v.Peer.Marks, v.Peer.Discard = 8, uint32(seglog.Ahead), true }, FullSyncs, "discards"},
		{"below the log", func(v *View) { v.Peer.Last.LSN = 8 }, FullSyncs, "begins at 10"},
		{"unknown common point", func(v *View) { v.Known = false }, AsksMore, "part"},
		{"nothing in common", func(v *View) { v.Known, v.None = false, true }, Diverges, "nothing in common"},
		{"longer tail, not serving yet", func(v *View) { v.Me.Serving, v.Peer.Last.LSN = false, 25 }, TakesTail, "21 to 25"},
		{"unacknowledged tail", func(v *View) { v.Peer.Last.LSN, v.Peer.Declared, v.Peer.Destaged = 25, 20, 18 }, CutStream, "21 to 25"},
		{"tail of an older term, not ahead", func(v *View) { v.Peer.Last.LSN, v.Peer.Term = 25, wire.Term{Number: 1, ID: 3} }, CutStream, "never"},
		{"tail of an older term, ahead", func(v *View) {
			v.Peer.Last.LSN, v.Peer.Term, v.Peer.Marks = 25, wire.Term{Number: 1, ID: 3}, uint32(seglog.Ahead)
		}, Diverges, "both wrote after LSN 20"},
		{"declared tail", func(v *View) { v.Peer.Last.LSN, v.Peer.Declared = 25, 21 }, Diverges, "both wrote"},
		{"destaged tail", func(v *View) { v.Peer.Last.LSN, v.Peer.Destaged = 25, 21 }, Diverges, "both wrote"},
		{"remote, level", func(v *View) { v.NoDisk = true }, Streams, "level"},
		{"remote, peer incomplete", func(v *View) { v.NoDisk, v.Peer.Marks = true, uint32(seglog.Inconsistent) }, Refuses, "the peer lacks something: the peer's copy is incomplete"},
		{"remote, new peer", func(v *View) { v.NoDisk, v.Peer.New = true, true }, Refuses, "the peer is new"},
		{"remote, below the log, map good", func(v *View) { v.NoDisk, v.Peer.Last.LSN, v.MapGood = true, 8, true }, Refuses, "lost"},
		{"not serving, but chains part", func(v *View) { v.Me.Serving, v.Peer.Last.LSN, v.Peer.Declared, v.Common = false, 25, 25, 15 }, Diverges, "LSN 15"},
	}
	for _, r := range rows {
		v := base()
		r.change(&v)
		got, reason := decide(v)
		if got != r.want || !strings.Contains(reason, r.reason) {
			t.Errorf("%s: %v (%s), want %v (%s)", r.name, got, reason, r.want, r.reason)
		}
	}
}
