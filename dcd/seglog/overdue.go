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
	if l.appBusy {
		wake = min(wake, l.late(now, &l.appAt, "an append"))
	}
	if l.sup.busy {
		wake = min(wake, l.late(now, &l.sup.at, "a superblock write"))
	}
	if l.stage.out > 0 {
		wake = min(wake, l.late(now, &l.stage.since, "a block of a sync"))
	}
	if l.dirty.busy {
		wake = min(wake, l.late(now, &l.dirty.at, "a write of the dirty map"))
	}
	if l.sums.busy {
		wake = min(wake, l.late(now, &l.sums.at, "a write of a summary"))
	}
	for _, r := range l.readers {
		if r.state == fetching {
			wake = min(wake, l.late(now, &r.askedAt, "a read"))
		}
	}
	return wake
}

// late says when what has been under way since then is overdue, and that it is.
func (l *Log) late(now int64, since *int64, what string) (wake int64) {
	if *since == 0 {
		*since = now // it began before anybody said what time it is
	}
	at := *since + l.deadline
	if now > at {
		l.Fail(fmt.Errorf("seglog: the log device did not answer %s within %d s", what, l.deadline/1e9))
		return blk.Never
	}
	return at + 1
}
