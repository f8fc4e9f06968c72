package blktest

import (
	"fmt"
	"hash/crc32"
	"syscall"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Check wraps a device and reports every breach of the blk contract, on either side, through
// Fail. The device gets a copy of each request, which nobody uses twice: so a second completion,
// or a look at a request that is no longer lent, is always noticed. A request that breaks the
// contract comes back with EINVAL.
type Check struct {
	Below blk.Device
	Fail  func(format string, args ...any)

	Overlaps     int // writes that overlapped a write in flight: allowed, unordered
	ReadOverlaps int // reads that overlapped a write in flight, or writes a read
	Completed    int

	list   []*checked
	inside bool // a Complete is running
	closed bool
}

// checked is one request in flight.
type checked struct {
	lent  blk.Request // what the device has
	r     *blk.Request
	owner blk.Completer
	c     *Check
	op    blk.Op
	off   int64
	n     int64
	sum   uint32
	done  bool
}

// poison is in Err when a device gets a request: it must clear it.
const poison = syscall.Errno(0xdead)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewCheck wraps below.
func NewCheck(below blk.Device, fail func(string, ...any)) *Check {
	return &Check{Below: below, Fail: fail}
}

// Info is the wrapped device's.
func (c *Check) Info() blk.Info { return c.Below.Info() }

// InFlight counts requests that have not come back.
func (c *Check) InFlight() int { return len(c.list) }

// Submit checks the request and passes a copy on, with itself as the owner.
func (c *Check) Submit(r *blk.Request) {
	info := c.Below.Info()
	why := breach(&info, r)
	switch {
	case c.closed:
		why = "submit after close"
	case c.inside:
		why = "submit inside a Complete"
	}
	for _, o := range c.list {
		if o.r == r {
			c.Fail("request submitted twice")
			return
		}
	}
	if why != "" {
		c.Fail("%s", why)
		r.Err = syscall.EINVAL
		r.Owner.Complete(r)
		return
	}
	k := &checked{lent: *r, r: r, owner: r.Owner, c: c, op: r.Op, off: r.Offset, n: r.Length}
	k.lent.Owner, k.lent.Next, k.lent.Err = k, nil, poison
	if k.op == blk.Write {
		k.sum = crc32.Checksum(r.Buf[:r.Length], castagnoli)
	}
	c.overlap(k)
	c.list = append(c.list, k)
	c.Below.Submit(&k.lent)
}

// overlap counts what the device may do in either order.
func (c *Check) overlap(k *checked) {
	if k.op == blk.Flush {
		return
	}
	for _, o := range c.list {
		if o.op == blk.Flush || o.off >= k.off+k.n || k.off >= o.off+o.n {
			continue
		}
		switch {
		case k.op != blk.Read && o.op != blk.Read:
			c.Overlaps++
		case k.op != blk.Read || o.op != blk.Read:
			c.ReadOverlaps++
		}
	}
}

// Complete checks that this is the one completion of a request and hands it back.
func (k *checked) Complete(l *blk.Request) {
	c := k.c
	if k.done || l != &k.lent {
		c.Fail("%v of [%d, +%d) completed twice, or as another", k.op, k.off, k.n)
		return
	}
	data := k.op == blk.Read || k.op == blk.Write
	switch {
	case c.closed:
		c.Fail("%v of [%d, +%d) completed after close", k.op, k.off, k.n)
	case l.Op != k.op || l.Offset != k.off || l.Length != k.n || l.Tag != k.r.Tag || l.Owner != blk.Completer(k):
		c.Fail("%v of [%d, +%d) came back as %v of [%d, +%d)", k.op, k.off, k.n, l.Op, l.Offset, l.Length)
	case l.Err == poison:
		c.Fail("%v of [%d, +%d): Submit did not clear Err", k.op, k.off, k.n)
		l.Err = 0
	case data && len(l.Buf) != len(k.r.Buf):
		c.Fail("%v of [%d, +%d) came back with a buffer of %d bytes", k.op, k.off, k.n, len(l.Buf))
		return
	case k.op == blk.Write && crc32.Checksum(k.r.Buf[:k.n], castagnoli) != k.sum:
		c.Fail("the data of a write of [%d, +%d) changed in flight", k.off, k.n)
	}
	k.done = true
	for i, o := range c.list {
		if o == k {
			c.list = append(c.list[:i], c.list[i+1:]...)
			break
		}
	}
	c.Completed++
	r := k.r
	r.Err, r.LSN, r.Left = l.Err, l.LSN, l.Left
	if data {
		r.Buf = l.Buf
	}
	k.lent = blk.Request{Op: 0xff, Offset: -1, Length: -1, Owner: k}
	was := c.inside
	c.inside = true
	k.owner.Complete(r)
	c.inside = was
}

// Kick passes on.
func (c *Check) Kick(now blk.Instant) int64 {
	switch {
	case c.inside:
		c.Fail("kick inside a Complete")
	case c.closed:
		c.Fail("kick after close")
	}
	return c.Below.Kick(now)
}

// Close checks that nothing is in flight and passes on.
func (c *Check) Close() error {
	switch {
	case c.closed:
		c.Fail("closed twice")
	case len(c.list) > 0:
		c.Fail("closed with %d requests in flight", len(c.list))
	}
	err := c.Below.Close()
	c.closed = true
	return err
}

// breach says how a request breaks the contract, "" if it does not.
func breach(info *blk.Info, r *blk.Request) string {
	align := max(int64(info.LogicalBytes), blk.SectorBytes)
	what := func(why string) string { return fmt.Sprintf("%v of [%d, +%d) %s", r.Op, r.Offset, r.Length, why) }
	data := r.Op == blk.Read || r.Op == blk.Write
	switch {
	case r.Owner == nil:
		return what("has no owner")
	case r.Op > blk.WriteZeroes:
		return what("is no operation")
	case r.Op == blk.Discard && !info.Discard || r.Op == blk.WriteZeroes && !info.WriteZeroes:
		return what("is not offered")
	case r.Op != blk.Read && r.Op != blk.Flush && info.ReadOnly:
		return what("on a read-only device")
	case r.Flags&blk.FUA != 0 && r.Op != blk.Write && r.Op != blk.Discard && r.Op != blk.WriteZeroes:
		return what("has FUA")
	case r.Flags&blk.NoUnmap != 0 && r.Op != blk.WriteZeroes:
		return what("has NoUnmap")
	case data && (int64(len(r.Buf)) < r.Length || !aligned(r.Buf)):
		return what(fmt.Sprintf("has a buffer of %d bytes, on a 512-byte boundary: %v", len(r.Buf), aligned(r.Buf)))
	case !data && r.Buf != nil:
		return what("has a buffer")
	case r.Op == blk.Flush:
		return ""
	case r.Offset < 0 || r.Length <= 0 || r.Length > info.SizeBytes || r.Offset > info.SizeBytes-r.Length:
		return what(fmt.Sprintf("is not within %d bytes", info.SizeBytes))
	case r.Offset%align != 0 || r.Length%align != 0:
		return what(fmt.Sprintf("is not aligned to %d", align))
	}
	return ""
}
