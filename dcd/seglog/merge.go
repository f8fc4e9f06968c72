package seglog

// mergeBytes is the most that a merged append has: a torn tail of so much cannot be told from rot in it.
const mergeBytes = 128 << 10

// merging is about appends of several segments that a primary sealed one after another.
type merging struct {
	on     bool
	ticket uint64 // of the superblock that says so
	flying bool   // the append in flight may be such a one
}

// Merge says whether several of a primary's segments may be appended at once although each declares the one before
// durable. A power cut can then leave the later one alone: as long as the superblock says so, recovery takes that, within
// the last append, for a torn tail, as it is, and not for corruption. It is for a secondary on whose word nobody's
// acknowledgement waits. It takes effect once the superblock is durable, and ends when no such append is in flight.
func (l *Log) Merge(on bool) {
	l.merge.on = on
	switch said := l.super.Incompat&Merges != 0; {
	case on && !said:
		l.merge.ticket = l.Update(func(s *Super) { s.Incompat |= Merges })
	case !on && said && !(l.appBusy && l.merge.flying):
		l.Update(func(s *Super) { s.Incompat &^= Merges })
	}
}

func (l *Log) merges() bool {
	said := l.super.Incompat&Merges != 0 && l.Updated() >= l.merge.ticket
	return l.merge.on && (said || Planted && Plant == "merge-unsaid")
}

// ofLast reports whether a segment at p may be of the append that was torn where the chain ends.
func (l *Log) ofLast(p Pos) bool {
	if l.super.Incompat&Merges == 0 {
		return false
	}
	c := Pos(l.super.ChunkBytes)
	next := (l.head/c + 1) * c // where it began if the chunk had no room for its first segment
	return p < l.head+mergeBytes || next-l.head < Pos(l.super.MaxSegmentBytes) && p >= next && p < next+mergeBytes
}
