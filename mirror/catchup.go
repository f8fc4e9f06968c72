package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// How a peer that is behind is watched, in ns of the loop's clock.
const (
	lagEvery  = second / 4 // between two looks
	lagSmooth = 5 * second // that the rates are smoothed over
	lagSlack  = second     // of writes under way are no backlog
	lagMarks  = 64
)

// CatchUp is how far the peer is behind, and whether it comes closer.
type CatchUp struct {
	Why                 string // "": it is level, or lacks what is under way only
	BacklogBytes        int64  // of log, and of blocks that a sync has to send
	BacklogNanos        int64  // since the oldest write that it lacks, or since this server's start
	WriteRate, ShipRate float64
	EtaNanos            int64 // until it is level, at these rates; -1: not known, or never
	CannotKeepUp        bool
}

// gauge is the rate of something that grows, per second, smoothed.
type gauge struct {
	begun, at int64
	last      int64
	rate      float64
}

// take looks at the value. A younger gauge gives the average of all that it has seen.
func (g *gauge) take(now, v int64) {
	dt := now - g.at
	switch {
	case g.begun == 0 || v < g.last:
		*g = gauge{begun: now, at: now, last: v}
		return
	case dt <= 0:
		return
	}
	r := float64(v-g.last) * second / float64(dt)
	g.rate += (r - g.rate) * min(1, float64(dt)/float64(min(now-g.begun, lagSmooth)))
	g.at, g.last = now, v
}

// sure reports whether the gauge has seen enough to be relied upon.
func (g *gauge) sure(now int64) bool { return g.begun > 0 && now-g.begun >= lagSmooth }

// mark says that everything up to lsn was sealed by then.
type mark struct {
	lsn seglog.LSN
	at  int64
}

// lag watches how far the peer is behind.
type lag struct {
	n           *Node
	looked      int64
	wake        int64 // when to look again
	write, ship gauge
	marks       []mark // when what the peer lacks was sealed, oldest first
	every       int64  // ns between two marks: doubled when there are too many
	lackFrom    int64  // since when something lacks that is not in the log; 0: nothing does
	cannot      bool

	gone    int64 // since when there is no session; 0: there is one
	goneWhy string
	way     string     // how the session began
	upAt    seglog.LSN // and what was sealed then: up to it the peer lacks what it was away for
	away    int64      // ns that it was
}

// kick looks at the peer now and then; rates are wanted promptly only where something is to be sent.
func (l *lag) kick() (wake int64) {
	n := l.n
	if !n.primary || !n.hasPeer() {
		return blk.Never
	}
	now := n.now.Mono
	if now-l.looked < lagEvery && l.looked > 0 {
		return l.wake
	}
	l.looked, l.wake = now, blk.Never
	if n.s.up && l.inLog() > 0 {
		l.wake = now + lagEvery
	}
	l.mark(now)
	l.write.take(now, int64(n.log.Head()))
	if n.s.up && !n.s.tail {
		l.ship.take(now, int64(n.log.Head())-l.inLog()+n.full.sent+n.full.skipped)
	}
	l.judge(now)
	return l.wake
}

// judge says when the peer begins not to keep up, and when it keeps up again.
func (l *lag) judge(now int64) {
	n := l.n
	behind, w, s := l.backlog(), l.write.rate, l.ship.rate
	used, of := n.log.Used()
	// A full log admits writes as fast as the peer takes them: then the two rates are equal.
	held := used*100 >= of*logHigh && l.inLog()*4 >= used*3 && s < w*1.1
	cannot := n.s.up && l.ship.sure(now) && float64(behind) > w*lagSlack/second && (s < w || held)
	if cannot == l.cannot {
		return
	}
	l.cannot = cannot
	words := [2]string{"keeps up", "cannot keep up"}
	if !cannot {
		words[0], words[1] = words[1], words[0]
	}
	n.event("peer", words[0], words[1], fmt.Sprintf("%.0f bytes per second are shipped, %.0f written, %d bytes behind", s, w, behind))
}

// level is the newest segment that the peer is known to have durably.
func (l *lag) level() seglog.LSN {
	n := l.n
	if n.ship.r != nil {
		return max(n.ship.durable, n.ship.r.Kept())
	}
	return n.ship.durable
}

// inLog is how much of the log the peer lacks, in bytes.
func (l *lag) inLog() int64 {
	n := l.n
	lsn := max(l.level()+1, n.log.First())
	s, ok := n.log.Lookup(lsn)
	if !ok {
		return 0
	}
	return int64(n.log.Head() - s.Pos)
}

// backlog is everything that the peer lacks, in bytes.
func (l *lag) backlog() int64 {
	n := l.n
	switch d := n.log.Dirty(); {
	case n.full.active:
		return n.full.left + l.inLog()
	case n.marks()&seglog.PeerNeedsFullSync != 0:
		return n.cache.Info().SizeBytes
	case d.Active():
		return d.Bytes() + l.inLog()
	}
	return l.inLog()
}

// mark notes how far the log is now, and forgets what the peer has.
func (l *lag) mark(now int64) {
	n := l.n
	switch {
	case !n.lacks() && !n.full.active:
		l.lackFrom = 0
	case l.lackFrom == 0 && len(l.marks) > 0:
		l.lackFrom = l.marks[0].at
	case l.lackFrom == 0:
		l.lackFrom = now
	}
	k := 0
	for k < len(l.marks) && l.marks[k].lsn <= n.ship.durable {
		k++
	}
	l.marks = l.marks[:copy(l.marks, l.marks[k:])]
	if len(l.marks) == 0 {
		l.every = lagEvery
	}
	sealed, last := n.log.Sealed(), mark{lsn: n.ship.durable}
	if m := len(l.marks); m > 0 {
		last = l.marks[m-1]
	}
	if sealed <= last.lsn || now-last.at < l.every {
		return
	}
	if len(l.marks) == lagMarks {
		for i := range lagMarks / 2 {
			l.marks[i] = l.marks[2*i+1]
		}
		l.marks = l.marks[:lagMarks/2]
		l.every *= 2
	}
	l.marks = append(l.marks, mark{sealed, now})
}

// up is told that a session begins, and how.
func (l *lag) up(v Verdict, reason string) {
	l.ship, l.cannot = gauge{}, false
	l.way, l.upAt, l.away, l.gone = v.String()+": "+reason, l.n.log.Sealed(), l.n.now.Mono-max(l.gone, l.n.begun), 0
}

// down is told that a session, or an attempt at one, ended.
func (l *lag) down(err error) {
	if l.gone == 0 {
		l.gone, l.goneWhy = l.n.now.Mono, err.Error()
	}
}

// why says why the peer is behind.
func (l *lag) why() string {
	n := l.n
	switch {
	case !n.s.up:
		if l.backlog() == 0 {
			return ""
		}
		return "the peer is away: " + n.s.lastErr
	case n.full.active:
		return l.way
	case n.ship.durable < l.upAt:
		return fmt.Sprintf("%s (it was away for %.1f s: %s)", l.way, float64(l.away)/second, l.goneWhy)
	case l.cannot && n.pace.rate > 0:
		return fmt.Sprintf("writes come faster than the rate limit of %d bytes per second lets them go", n.pace.rate)
	case l.cannot:
		return "writes come faster than the link and the peer take them"
	}
	return ""
}

// catchUp tells all of it.
func (l *lag) catchUp() CatchUp {
	n := l.n
	c := CatchUp{EtaNanos: -1}
	if !n.primary || !n.hasPeer() {
		return c
	}
	c.Why, c.BacklogBytes, c.WriteRate, c.CannotKeepUp = l.why(), l.backlog(), l.write.rate, l.cannot
	switch {
	case c.BacklogBytes == 0:
	case l.lackFrom > 0:
		c.BacklogNanos = n.now.Mono - l.lackFrom
	case len(l.marks) > 0:
		c.BacklogNanos = n.now.Mono - l.marks[0].at
	}
	if n.s.up {
		c.ShipRate = l.ship.rate
	}
	switch gain := c.ShipRate - c.WriteRate; {
	case c.BacklogBytes == 0:
		c.EtaNanos = 0
	case gain > 0:
		c.EtaNanos = int64(min(float64(c.BacklogBytes)*second/gain, 1<<62))
	}
	return c
}
