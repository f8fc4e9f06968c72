package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// Verdict is how a primary goes on with a peer that has said hello.
type Verdict uint8

// Verdicts.
const (
	Streams   Verdict = iota + 1 // the peer is a prefix: the log from its end on
	CutStream                    // its tail above the common point was never acknowledged: cut, then stream
	FullSyncs                    // everything anew
	TakesTail                    // this primary does not serve yet and is a prefix of the peer: take what it has more
	Refuses                      // another volume, another size, another version
	Stops                        // the peer is the primary of a newer term: this one is fenced
	Diverges                     // both wrote: a person must say whose data is dropped
	MapSyncs                     // what is in the dirty map
	Resumes                      // a sync that was interrupted goes on
	TakesTerm                    // the peer has a newer term, in which it wrote nothing and was demoted: take a higher one
	AsksMore                     // the common point is not known yet: ask for hashes
)

func (v Verdict) String() string {
	return [...]string{"?", "stream", "cut and stream", "full sync", "take the peer's tail", "refuse", "stop", "diverged", "map sync", "go on with the sync", "take a higher term", "ask"}[v]
}

// View is everything that the connect rules of a primary look at.
type View struct {
	Me, Peer wire.HelloMsg
	// Common is the highest LSN at which both chains have the same header hash; Known says
	// whether it has been found, None that there is none in what both logs hold.
	Common      uint64
	Known, None bool
	// MapGood says that the dirty map holds everything that the peer lacks and the log has not;
	// CanResume that an interrupted sync can go on from where it was.
	MapGood, CanResume bool
	// NoDisk says that the volume is remote: there is nothing here to sync a peer from.
	NoDisk bool
	// Clean says that the user takes a new peer's disk for equal, and that log or map have all that
	// was written since.
	Clean bool
}

// decide is the connect rule of DESIGN section 5, without side effects.
func decide(v View) (Verdict, string) {
	d, reason := rule(v)
	if v.NoDisk && (d == FullSyncs || d == MapSyncs || d == Resumes) {
		return Refuses, "this side's own disk or log is lost, and the peer lacks something: " + reason
	}
	return d, reason
}

func rule(v View) (Verdict, string) {
	me, p := &v.Me, &v.Peer
	myMarks, peerMarks := seglog.Marks(me.Marks), seglog.Marks(p.Marks)
	gone := myMarks&seglog.PeerNeedsFullSync != 0
	wrote := peerMarks&seglog.Ahead != 0 && !(Planted && Plant == "forget-ahead") // it acknowledged what this side may lack
	switch {
	case p.MinVersion > wire.Version || p.Version < wire.MinVersion:
		return Refuses, fmt.Sprintf("the peer speaks protocol versions %d to %d, this side %d to %d", p.MinVersion, p.Version, wire.MinVersion, wire.Version)
	case p.Required != 0:
		return Refuses, fmt.Sprintf("the peer requires features %#x that this version lacks", p.Required)
	case p.Volume != me.Volume && !(p.New && p.Volume == [16]byte{}):
		return Refuses, "the peer holds another volume"
	case p.New && p.Primary:
		return Refuses, "the peer is a primary without a volume"
	case p.DiskBytes < me.DiskBytes:
		return Refuses, fmt.Sprintf("the peer's disk is smaller: %d bytes, %d are needed", p.DiskBytes, me.DiskBytes)
	case p.DiskBlock > me.DiskBlock:
		return Refuses, fmt.Sprintf("the peer's disk has larger blocks: %d bytes, this one has %d", p.DiskBlock, me.DiskBlock)
	case p.MaxSegment < me.MaxSegment:
		return Refuses, fmt.Sprintf("the peer's log takes segments of %d bytes, this one makes %d: give it a larger log", p.MaxSegment, me.MaxSegment)
	case !p.New && p.Term.Number > me.Term.Number && peerMarks&(seglog.Demoted|seglog.Inconsistent) == seglog.Demoted && v.Known && v.Common == p.Last.LSN:
		return TakesTerm, fmt.Sprintf("the peer was promoted, wrote nothing in its term %d, and was demoted", p.Term.Number)
	case !p.New && p.Term.Number > me.Term.Number:
		return Stops, fmt.Sprintf("the peer has term %d, this one %d: it was promoted meanwhile", p.Term.Number, me.Term.Number)
	case p.Primary && p.Term.Number < me.Term.Number:
		return Refuses, fmt.Sprintf("the peer is the primary of the older term %d, and stops: demote it there", p.Term.Number)
	case p.Primary:
		return Diverges, "both are primaries"
	case p.New && v.Clean:
		return MapSyncs, "the peer is new, and its disk is taken for equal but for what was written since (--assume-clean)"
	case p.New:
		return FullSyncs, "the peer is new"
	case peerMarks&seglog.Inconsistent != 0 && v.CanResume && v.Known && v.Common == p.Last.LSN:
		return Resumes, "the peer's copy is incomplete, and what it has is on this chain"
	case peerMarks&seglog.Inconsistent != 0 && v.MapGood:
		return MapSyncs, "the peer's copy is incomplete, and the map says what it lacks"
	case peerMarks&seglog.Inconsistent != 0:
		return FullSyncs, "the peer's copy is incomplete"
	case gone && (!wrote || v.Known && v.Common == p.Last.LSN):
		return FullSyncs, "what the peer lacks is not in the log any more"
	case p.Last.LSN+1 < me.First.LSN && v.MapGood:
		return MapSyncs, fmt.Sprintf("the peer ends at LSN %d, the log begins at %d, the map says what changed between", p.Last.LSN, me.First.LSN)
	case p.Last.LSN+1 < me.First.LSN && wrote:
		return parted(p, fmt.Sprintf("the peer wrote alone and ends at LSN %d, and this log begins at %d: what it wrote may be nowhere else", p.Last.LSN, me.First.LSN))
	case p.Last.LSN+1 < me.First.LSN:
		return FullSyncs, fmt.Sprintf("the peer ends at LSN %d, the log begins at %d", p.Last.LSN, me.First.LSN)
	case !v.Known && !v.None:
		return AsksMore, "where do the two chains part?"
	case v.None:
		return parted(p, "the two logs have nothing in common")
	case v.Common == p.Last.LSN:
		return Streams, fmt.Sprintf("the peer is level up to LSN %d of %d", v.Common, me.Last.LSN)
	case !me.Serving && v.Common == me.Last.LSN:
		return TakesTail, fmt.Sprintf("the peer has LSN %d to %d, which this log lost", v.Common+1, p.Last.LSN)
	case !gone && declared(p) <= v.Common && p.Destaged <= v.Common && (p.Term == me.Term || !wrote):
		return CutStream, fmt.Sprintf("the peer's LSN %d to %d were never acknowledged", v.Common+1, p.Last.LSN)
	}
	return parted(p, fmt.Sprintf("both wrote after LSN %d", v.Common))
}

// declared is the newest LSN that the peer's chain says was durable at another machine, or was acknowledged. A
// primary that was demoted has declared its own segments, and acknowledged none of them alone unless it is ahead.
func declared(p *wire.HelloMsg) uint64 {
	if m := seglog.Marks(p.Marks); m&seglog.Demoted != 0 && m&seglog.Ahead == 0 {
		return 0
	}
	return p.Declared
}

// parted is what to do about two histories: nothing, unless the user gave one of them up.
func parted(p *wire.HelloMsg, reason string) (Verdict, string) {
	if p.Discard {
		return FullSyncs, reason + ", and the user discards what the peer has"
	}
	return Diverges, reason
}
