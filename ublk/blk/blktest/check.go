package blktest

import (
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Check wraps a device and reports every breach of the blk contract through Fail.
type Check struct {
	Below blk.Device
	Fail  func(format string, args ...any)

	Overlaps int // writes that overlapped one in flight: allowed, unordered

	flight map[*blk.Request]*checked
	list   []*checked
	inside bool // a Complete is running
	closed bool
}

type checked struct {
	r     *blk.Request
	owner blk.Completer
	c     *Check
	op    blk.Op
	off   int64
	n     int64
	done  bool
}

// NewCheck wraps below.
func NewCheck(below blk.Device, fail func(string, ...any)) *Check {
	return &Check{Below: below, Fail: fail, flight: map[*blk.Request]*checked{}}
}

// Info is the wrapped device's.
func (c *Check) Info() blk.Info { return c.Below.Info() }

// InFlight counts requests that have not come back.
func (c *Check) InFlight() int { return len(c.list) }

// Submit checks the request and passes it on, with itself as the owner.
func (c *Check) Submit(r *blk.Request) {
	info := c.Below.Info()
	align := max(int64(info.LogicalBytes), blk.SectorBytes)
	switch {
	case c.closed:
		c.Fail("submit after close")
	case c.inside:
		c.Fail("submit inside a Complete")
	case c.flight[r] != nil:
		c.Fail("request submitted twice")
		return
	case r.Op != blk.Flush && (r.Offset < 0 || r.Length <= 0 || r.Offset+r.Length > info.SizeBytes):
		c.Fail("%v of [%d, +%d) beyond %d bytes", r.Op, r.Offset, r.Length, info.SizeBytes)
	case r.Op != blk.Flush && (r.Offset%align != 0 || r.Length%align != 0):
		c.Fail("%v of [%d, +%d) is not aligned to %d", r.Op, r.Offset, r.Length, align)
	case (r.Op == blk.Read || r.Op == blk.Write) && int64(len(r.Buf)) < r.Length:
		c.Fail("%v of %d bytes with a buffer of %d", r.Op, r.Length, len(r.Buf))
	}
	k := &checked{r: r, owner: r.Owner, c: c, op: r.Op, off: r.Offset, n: r.Length}
	if r.Op == blk.Write {
		for _, o := range c.list {
			if o.op == blk.Write && o.off < k.off+k.n && k.off < o.off+o.n {
				c.Overlaps++
			}
		}
	}
	c.flight[r] = k
	c.list = append(c.list, k)
	r.Owner = k
	c.Below.Submit(r)
}

// Complete checks that this is the one completion of a request and hands it back.
func (k *checked) Complete(r *blk.Request) {
	c := k.c
	if r != k.r || k.done {
		c.Fail("%v of [%d, +%d) completed twice, or as another", k.op, k.off, k.n)
		return
	}
	if r.Op != k.op || r.Offset != k.off || r.Length != k.n {
		c.Fail("%v of [%d, +%d) came back as %v of [%d, +%d)", k.op, k.off, k.n, r.Op, r.Offset, r.Length)
	}
	k.done = true
	delete(c.flight, r)
	for i, o := range c.list {
		if o == k {
			c.list = append(c.list[:i], c.list[i+1:]...)
			break
		}
	}
	r.Owner = k.owner
	was := c.inside
	c.inside = true
	k.owner.Complete(r)
	c.inside = was
}

// Kick passes on.
func (c *Check) Kick(now blk.Instant) int64 {
	if c.inside {
		c.Fail("kick inside a Complete")
	}
	return c.Below.Kick(now)
}

// Close checks that nothing is in flight and passes on.
func (c *Check) Close() error {
	if len(c.list) > 0 {
		return fmt.Errorf("blktest: closed with %d requests in flight", len(c.list))
	}
	c.closed = true
	return c.Below.Close()
}
