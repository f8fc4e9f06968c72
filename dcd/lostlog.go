package dcd

import (
	"fmt"
	"math/bits"

	"github.com/robib-ublk/robib/dcd/seglog"
)

// abandon passes over segments that lay only on a log device that is lost: what they hold can never
// reach the data disk, which therefore counts as lost, too. The peer, which stands in, has them.
func (d *destager) abandon() {
	c := d.c
	err := d.reader.Err()
	if err == nil || !c.remote || c.log.Device() != nil {
		return
	}
	last := seglog.LSN(0)
	for lsn := d.reader.Position() + 1; lsn <= d.limit(); lsn++ {
		s, ok := c.log.Lookup(lsn)
		if ok && c.log.RAM(s.Pos, s.Bytes) != nil {
			break
		}
		last = lsn
	}
	d.reader.Rewind(d.reader.Position()) // whether or not: the next look finds out
	if last == 0 {
		return
	}
	end := c.log.Head()
	if s, ok := c.log.Lookup(last + 1); ok {
		end = s.Pos
	}
	c.dataFailed(fmt.Errorf("what the data disk lacks lay on the log that is lost: %w", err))
	c.idx.removeIf(func(_, base uint32, mask uint8) uint8 {
		if c.pos(base, bits.TrailingZeros8(mask)) < end {
			return mask
		}
		return 0
	})
	c.zeros.drop(last)
	d.reader.Skip(last)
	d.release(last)
}
