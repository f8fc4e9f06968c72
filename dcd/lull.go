package dcd

import "github.com/robib-ublk/robib/ublk/blk"

// lullReadNanos is how long after a read nothing is put off: the next one would wait.
const lullReadNanos = 100_000_000

// Lull reports whether the log device's answer to the append in flight is the only thing on its way here, and
// of no use yet: every write that waits for it waits for AckLimit too, and nothing else is to be done. Whoever
// moves AckLimit may then leave that answer until it can, and save a wake-up.
func (c *Cache) Lull(now blk.Instant) bool {
	if c.count.Reads != c.reads {
		c.reads, c.readAt = c.count.Reads, now.Mono
	}
	w := c.waiting.Head()
	yes := w != nil && w.LSN > c.AckLimit && w.Stamps == nil && // a traced one is told when its append has ended
		c.log.InFlight() == 1 && c.pending.Head() == nil && c.parked.Head() == nil && c.y.active == 0 &&
		c.r.active == 0 && c.d.phase == resting && now.Mono-c.readAt > lullReadNanos
	if yes {
		c.log.NotTimed()
	}
	return yes
}
