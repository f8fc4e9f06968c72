package mirror

import "github.com/robib-ublk/robib/dcd/seglog"

const (
	lagMarks    = 256
	lagInterval = 100_000_000 // ns between marks, until they are too many
)

// lag remembers when the log had reached which segment, so that the age of the oldest one that the
// peer lacks is known for as long as an outage lasts, in constant memory: when there are too many
// marks every other one goes, and from then on they come half as often.
type lag struct {
	marks  [lagMarks]lagMark // ascending
	n      int
	halved int // times
}

type lagMark struct {
	lsn seglog.LSN // sealed by then
	at  int64      // Mono
}

// note is told at each batch how far log and peer are.
func (g *lag) note(now int64, sealed, durable seglog.LSN) {
	if durable >= sealed {
		g.n, g.halved = 0, 0
		return
	}
	if g.n > 0 && (g.marks[g.n-1].lsn == sealed || now-g.marks[g.n-1].at < g.every()) {
		return
	}
	if done := g.passed(durable); done > 0 {
		g.n = copy(g.marks[:], g.marks[done:g.n])
	}
	if g.n == lagMarks {
		for i := range lagMarks / 2 {
			g.marks[i] = g.marks[2*i]
		}
		g.n, g.halved = lagMarks/2, g.halved+1
	}
	g.marks[g.n] = lagMark{sealed, now}
	g.n++
}

// every is the time between marks.
func (g *lag) every() int64 { return lagInterval << g.halved }

// passed counts the marks that the peer has reached.
func (g *lag) passed(durable seglog.LSN) int {
	for i, m := range g.marks[:g.n] {
		if m.lsn > durable {
			return i
		}
	}
	return g.n
}

// nanos is the age of the oldest segment that the peer lacks: less than the truth by no more than
// the time between two marks. What was lacked at the start is as old as the start.
func (g *lag) nanos(now int64, durable seglog.LSN) int64 {
	if i := g.passed(durable); i < g.n {
		return now - g.marks[i].at
	}
	return 0
}
