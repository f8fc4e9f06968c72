package seglog

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Finding is one thing that Check found.
type Finding struct {
	Bad  bool   `json:"bad"`
	Text string `json:"text"`
}

// Summary is what a log holds.
type Summary struct {
	Super      Super `json:"-"`
	First      LSN   `json:"first_lsn"`
	Last       LSN   `json:"last_lsn"`
	Segments   int   `json:"segments"`
	Records    int   `json:"records"`
	UsedBytes  int64 `json:"used_bytes"`
	DirtyBytes int64 `json:"dirty_bytes"` // payload that may not be on the data disk yet
	TornTail   bool  `json:"torn_tail"`
	ReadBytes  int64 `json:"read_bytes"`
	Staged     int   `json:"staged_blocks"` // of a sync: see Super

	SummaryPages   int   `json:"summary_pages"`
	Summarized     int   `json:"summarized_segments"` // that pages name, as they are
	DirtyMapPages  int   `json:"dirty_map_pages"`     // 0: there is no dirty map
	PeerLacksBytes int64 `json:"peer_lacks_bytes"`    // as the dirty map says
}

// Check walks a log offline, holds the summary pages against it, reads the dirty map, and changes nothing. It reports what it finds as it goes; the error
// is what would keep the log from being opened.
func Check(dev blk.Device, drive blk.Drive, report func(Finding)) (Summary, error) {
	s, damaged, err := probe(dev, drive)
	if err != nil {
		return Summary{}, err
	}
	sum := Summary{Super: *s, First: s.Start.LSN, Last: s.Start.LSN - 1}
	if damaged {
		report(Finding{true, "one of the two superblocks is damaged; the other one is good and the next start writes it again"})
	}
	w := offline(dev, s, drive)
	defer w.close()
	a := aids{l: w.l, drive: drive, report: report, sum: &sum}
	hole, _ := w.follow(func(g *Segment) error {
		a.walk(g)
		sum.Last = g.LSN
		sum.Segments++
		sum.Records += g.Records
		sum.UsedBytes = int64(w.l.head - s.tail())
		for i := range g.Records {
			if r := g.Record(i); r.Kind == Data {
				sum.DirtyBytes += r.Length
			}
		}
		return nil
	})
	sum.ReadBytes = w.Bytes
	if s.StageBytes > 0 {
		sum.UsedBytes = max(sum.UsedBytes, s.StageBytes)
		_, err := WalkStage(dev, drive, func(Staged) { sum.Staged++ })
		text := fmt.Sprintf("%d blocks of a sync, at byte %d, go to the data disk at the next start", sum.Staged, w.l.DeviceOffset(s.StagePos))
		if s.Marks&Staging != 0 {
			text = fmt.Sprintf("%d blocks of a sync, at byte %d, and the segments are not visible yet: the copy is the data disk alone, as of LSN %d", sum.Staged, w.l.DeviceOffset(s.StagePos), s.Visible.LSN-1)
		}
		report(Finding{err != nil, text})
		if err != nil {
			return sum, err
		}
	}
	if errors.Is(hole, ErrReadError) {
		return sum, hole
	}
	if err := w.judge(hole); err != nil {
		report(Finding{true, err.Error()})
		return sum, err
	}
	if err := errors.Join(a.summaries(), a.dirty()); err != nil {
		return sum, err
	}
	if !errors.Is(hole, ErrOrder) && !isEmpty(w) {
		sum.TornTail = true
		report(Finding{false, fmt.Sprintf("a torn tail after segment %d: it was never acknowledged, and is cut at the next start", sum.Last)})
	}
	return sum, nil
}

// isEmpty reports whether nothing of this chain was begun where the next segment would be.
func isEmpty(w *walker) bool {
	b, err := w.bytes(w.l.head, sectorBytes)
	return err != nil || le.Uint32(b) != segMagic || le.Uint64(b[8:]) != w.l.sealed+1
}
