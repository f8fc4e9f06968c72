package mirrortest

import (
	"bytes"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// modelWrites is how many operations the clients have together, and modelDepth how many are in flight.
const (
	modelWrites = 4
	modelDepth  = 2
)

// client uses the device of one machine, for one life of it: it reads everything first, then it writes.
type client struct {
	h     *history
	i     int
	read  blk.Request
	image []byte
	got   bool
	at    int // volume after all that was submitted
	ops   [modelWrites + 1]modelOp
	n     int // submitted
	done  int
	most  int
}

type modelOp struct {
	c *client
	blk.Request
	at   int
	back bool
}

func newClient(h *history, i int) *client {
	c := &client{h: h, i: i, image: make([]byte, 33<<10)[:modelBytes], at: -1, most: max(modelWrites-h.written, 1)}
	c.read = blk.Request{Op: blk.Read, Length: modelBytes, Buf: c.image, Owner: c}
	h.m[i].Node.Device().Submit(&c.read)
	return c
}

// Complete records that everything was read.
func (c *client) Complete(*blk.Request) { c.got = true }

// Complete records what was acknowledged, and what the machine says of itself just then.
func (o *modelOp) Complete(r *blk.Request) {
	o.back = true
	if r.Err != 0 {
		return // fenced: nobody was promised anything
	}
	h := o.c.h
	h.acks = append(h.acks, &ack{at: o.at, by: o.c.i, lsn: r.LSN})
	if h.stale[o.c.i] {
		fail("machine %d acknowledges beside term %d, and had not died degraded", o.c.i, h.term[1-o.c.i])
	}
	marks := h.m[o.c.i].Cache.Log().Super().Marks
	if other := h.m[1-o.c.i]; marks&seglog.Degraded == 0 && other.Node != nil && other.Node.Status().Primary && h.mode != mirror.Async {
		fail("machine %d acknowledges as if it had a peer, and that was promoted", o.c.i)
	}
}

// pump judges what came back and goes on.
func (c *client) pump() {
	if !c.got {
		return
	}
	if c.at < 0 {
		if c.read.Err != 0 {
			return // fenced before it could read
		}
		c.at = c.h.pin(c.i, c.image)
	}
	for c.done < c.n && c.ops[c.done].back {
		c.done++
	}
	for c.n < c.most && c.n-c.done < modelDepth {
		c.submit()
	}
}

// submit writes a block, parts of two, the first block again, or zeros.
func (c *client) submit() {
	h := c.h
	o := &c.ops[c.n]
	o.c = c
	op, off, n := blk.Write, int64(0), int64(dcd.BlockBytes)
	switch h.written % 4 {
	case 1:
		off, n = dcd.BlockBytes-1024, 2048
	case 3:
		op, off = blk.WriteZeroes, dcd.BlockBytes
	}
	image := bytes.Clone(h.tree[c.at].image)
	o.Request = blk.Request{Op: op, Offset: off, Length: n, Owner: o}
	if op == blk.Write {
		blktest.Fill(image[off:off+n], off, uint64(1000+len(h.tree)))
		o.Buf = make([]byte, 33<<10)[:n]
		copy(o.Buf, image[off:])
	} else {
		clear(image[off : off+n])
	}
	h.tree = append(h.tree, volume{c.at, image})
	o.at = len(h.tree) - 1
	c.at = o.at
	c.n++
	h.written++
	h.m[c.i].Node.Device().Submit(&o.Request)
}

// idle reports whether nothing of the client's is left to do.
func (c *client) idle() bool { return c != nil && c.at >= 0 && c.done == c.most }
