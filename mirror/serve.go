package mirror

import (
	"fmt"
	"syscall"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// serveSlots is how many reads a secondary answers at once.
const serveSlots = 16

// maxServe is the longest read it answers: a client's longest request.
const maxServe = 512 << 10

// server answers a primary that reads this copy.
type server struct {
	n     *Node
	slots [serveSlots]serveSlot
	mem   []byte
	queue []question
	due   int // slots whose read is done
}

type question struct {
	id     uint64
	off, n int64
	lsn    uint64
}

type serveSlot struct {
	blk.Request
	q    question
	busy bool
	done bool
	gone bool // its memory is in quarantine
}

func (v *server) open() error {
	for i := range v.slots {
		v.slots[i].Tag, v.slots[i].Owner = uint32(i), v
	}
	return nil
}

func (v *server) close() error {
	err := blk.Free(v.mem)
	v.mem = nil
	return err
}

// Complete records that a read is done; send answers.
func (v *server) Complete(r *blk.Request) {
	s := &v.slots[r.Tag]
	if r.Replaced(v.mem[int(r.Tag)*serveStride+4096:]) {
		// The disk hangs and may still write to the slot's memory: the slot is not used again.
		s.gone, r.Err = true, syscall.EIO
	}
	s.done = true
	v.due++
}

const serveStride = 4096 + maxServe

func (v *server) request(f *wire.Frame) {
	n := v.n
	r, _, err := wire.ParseRange(f.Body, n.cache.Info().SizeBytes)
	if err == nil && (r.Length > maxServe || len(v.queue) >= peerReads) {
		err = fmt.Errorf("%w: a read of %d bytes, %d wait", wire.ErrBody, r.Length, len(v.queue))
	}
	if err == nil && v.mem == nil {
		v.mem, err = blk.Alloc(serveSlots * serveStride)
	}
	if err != nil {
		n.s.lost(err)
		return
	}
	v.queue = append(v.queue, question{r.ID, r.Offset, r.Length, f.LSN})
}

// kick starts reads whose state this copy has durably.
func (v *server) kick() {
	for len(v.queue) > 0 && !v.n.cache.Staging() && v.n.log.Durable() >= v.queue[0].lsn {
		i := v.free()
		if i < 0 {
			return
		}
		s := &v.slots[i]
		s.q, s.busy, s.done = v.queue[0], true, false
		v.queue = v.queue[:copy(v.queue, v.queue[1:])]
		s.Op, s.Offset, s.Length, s.Owner = blk.Read, s.q.off, s.q.n, v
		s.Buf = v.mem[i*serveStride+4096:][:s.q.n:s.q.n]
		v.n.cache.Submit(&s.Request)
	}
}

func (v *server) free() int {
	for i := range v.slots {
		if !v.slots[i].busy {
			return i
		}
	}
	return -1
}

func (v *server) send() {
	for i := 0; v.due > 0 && i < len(v.slots); i++ {
		s := &v.slots[i]
		if !s.busy || !s.done {
			continue
		}
		if !v.n.pace.may(v.n.now.Mono) {
			return
		}
		body := v.mem[i*serveStride+4096-wire.RangeBytes:][:wire.RangeBytes+s.q.n]
		r := wire.Range{ID: s.q.id, Offset: s.q.off, Length: s.q.n}
		if s.Err != 0 {
			r.Errno = uint32(s.Err)
			body = body[:wire.RangeBytes]
		}
		r.Put(body)
		f := v.n.frameOf(wire.ReadReply)
		f.Body = body
		if !v.n.sendData(f, wire.PackKey{Kind: f.Kind, A: s.q.id}, wire.RangeBytes) {
			return
		}
		s.busy, s.done = s.gone, false
		v.due--
	}
}

// lost forgets questions of the session that ended; reads under way end by themselves.
func (v *server) lost() {
	v.queue = v.queue[:0]
	for i := range v.slots {
		if s := &v.slots[i]; s.done {
			s.busy, s.done = s.gone, false
		}
	}
	v.due = 0
}
