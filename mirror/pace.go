package mirror

import (
	"fmt"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// paceBurst is for how long unused bandwidth is saved up, in ns.
const paceBurst = second / 50

// MinRateLimit is the lowest limit: below it one segment of 1 MiB takes more than a minute.
const MinRateLimit = 16 << 10

// pace limits the bytes of data that this side sends each second. It is a token bucket that keeps
// the time at which it is full instead of a level (the virtual scheduling of ITU-T I.371): a frame
// goes whole as soon as those before it are paid for. Segments, blocks of a full sync and answers
// to reads ask it; heartbeats, acknowledgements and decisions never do.
type pace struct {
	rate  int64 // bytes a second; 0: no limit
	paid  int64 // when all that was sent is paid for
	waits bool  // somebody was refused in this batch

	sent uint64 // bytes of data frames, before encryption
}

// may reports whether a data frame may go now.
func (p *pace) may(now int64) bool {
	if p.rate == 0 || p.paid <= now {
		return true
	}
	p.waits = true
	return false
}

// spend accounts for a data frame that was sent.
func (p *pace) spend(now int64, f *wire.Frame) {
	n := int64(wire.HeadBytes + len(f.Body))
	p.sent += uint64(n)
	if p.rate > 0 {
		p.paid = max(p.paid, now-paceBurst) + n*second/p.rate
	}
}

// wake is when somebody who was refused may go on.
func (p *pace) wake() int64 {
	if !p.waits {
		return blk.Never
	}
	p.waits = false
	return p.paid
}

// set changes the limit; what was sent under the old one is paid for.
func (p *pace) set(rate int64) error {
	if rate != 0 && rate < MinRateLimit {
		return fmt.Errorf("a limit of %d bytes per second: at least %d", rate, MinRateLimit)
	}
	if rate != p.rate {
		p.rate, p.paid = rate, 0
	}
	return nil
}

// SetRateLimit bounds the bytes of data that this side sends each second; 0 is no bound.
func (n *Node) SetRateLimit(bytesPerSecond int64) error { return n.pace.set(bytesPerSecond) }
