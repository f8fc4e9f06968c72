package mirror

import (
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// A log with a damaged segment that was durable cannot be opened, so its node cannot exist yet: the
// segment is asked for outside any session, and the peer answers from its own log.

// fetchWait bounds one such question.
const fetchWait = 30 * second

// Fetch asks the peer for one segment of a volume's chain. It drives until there is an answer.
func Fetch(net Network, drive blk.Drive, volume seglog.UUID, lsn seglog.LSN) ([]byte, error) {
	now, err := drive()
	if err != nil {
		return nil, err
	}
	last := errors.New("it does not answer")
	net.Dial()
	end := now.Mono + fetchWait
	for dialAt := int64(blk.Never); now.Mono < end; {
		c, control, err := net.Next()
		switch {
		case control && c != nil:
			c.Close() // there is no session
		case c != nil:
			raw, err := fetchOver(c, drive, end, volume, lsn)
			return raw, errors.Join(err, c.Close())
		case err != nil:
			last, dialAt = err, now.Mono+DefaultBackoff
		}
		if now.Mono >= dialAt {
			net.Dial()
			dialAt = blk.Never
		}
		if now, err = drive(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the peer cannot be asked for segment %d: %w", lsn, last)
}

func fetchOver(c Conn, drive blk.Drive, end int64, volume seglog.UUID, lsn seglog.LSN) ([]byte, error) {
	c.Send(&wire.Frame{Kind: wire.Fetch, LSN: lsn, Body: volume[:]})
	for {
		for f, ok := c.Recv(); ok; f, ok = c.Recv() {
			switch {
			case f.Kind == wire.Segment && f.LSN == lsn:
				return append([]byte(nil), f.Body...), nil
			case f.Kind == wire.Goodbye:
				return nil, fmt.Errorf("the peer does not give segment %d: %s", lsn, f.Body)
			}
		}
		if err := c.Err(); err != nil {
			return nil, fmt.Errorf("ask the peer for segment %d: %w", lsn, err)
		}
		now, err := drive()
		if err != nil {
			return nil, err
		}
		if now.Mono >= end {
			return nil, fmt.Errorf("the peer did not give segment %d within %d s", lsn, fetchWait/second)
		}
	}
}

// fetcher answers such a question.
type fetcher struct {
	n   *Node
	r   *seglog.Reader
	lsn seglog.LSN
}

func (x *fetcher) asked(f *wire.Frame) {
	n := x.n
	var v seglog.UUID
	copy(v[:], f.Body)
	switch {
	case n.s.up || x.r != nil || len(f.Body) != len(v):
		n.s.lost(errors.New("an unexpected question for a segment"))
	case v != n.log.Super().Volume:
		n.s.goodbye("this is another volume")
	case f.LSN < n.oldest() || f.LSN > n.log.Durable():
		n.s.goodbye(fmt.Sprintf("this log holds segments %d to %d", n.oldest(), n.log.Durable()))
	default:
		x.lsn, x.r = f.LSN, n.log.NewReader("fetch", f.LSN-1)
	}
}

// kick sends the segment once it is read.
func (x *fetcher) kick() {
	if x.r == nil {
		return
	}
	n := x.n
	switch s := x.r.Next(x.lsn); {
	case n.s.conn == nil:
	case s != nil:
		f := n.frameOf(wire.Segment)
		f.LSN, f.Body = s.LSN, s.Raw
		if !n.s.conn.Send(f) {
			x.r.Unread()
			return
		}
		n.event("peer", "", "was given a segment", fmt.Sprintf("LSN %d is damaged in its log", s.LSN))
	case x.r.Err() != nil:
		n.s.goodbye(x.r.Err().Error())
	default:
		return // it is being read
	}
	x.r.Release(x.lsn)
	if x.r.Close() == nil {
		x.r = nil
	}
}
