package seglog

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// overdue notices a device that does not answer, and says when to look again.
func (l *Log) overdue(now int64) (wake int64) {
	wake = blk.Never
	if l.deadline == 0 || l.failed != nil || l.dev == nil {
		return wake
	}
	late := func(busy bool, since *int64, what string) {
		if *since == 0 {
			*since = now // it began before anybody said what time it is
		}
		switch at := *since + l.deadline; {
		case !busy:
		case now > at:
			l.Fail(fmt.Errorf("seglog: the log device did not answer %s within %d s", what, l.deadline/1e9))
		default:
			wake = min(wake, at+1)
		}
	}
	late(l.appBusy, &l.appAt, "an append")
	late(l.sup.busy, &l.sup.at, "a superblock write")
	late(l.dirty.busy, &l.dirty.at, "a write of the dirty map")
	late(l.sums.busy, &l.sums.at, "a write of a summary")
	for _, r := range l.readers {
		late(r.state == fetching, &r.askedAt, "a read")
	}
	return wake
}
