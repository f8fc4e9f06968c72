package mirrortest

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// The exhaustive small model: the real code of two machines over a volume of three blocks and logs of four
// segments. A client writes four times; after every turn at which anything had changed either machine, or
// both, lose power, with or without all that was on its way to their disks, or the link is lost; then
// they come back in either order, with or without the link, or the other one is promoted and the old
// primary returns. A second such fault follows at the turns after that. In the end both machines are
// in sync again and hold the same bytes.

// modelFaults are all faults but for when.
func modelFaults() (out []fault) {
	add := func(what, then string) {
		for _, t := range []byte(then) {
			out = append(out, fault{what: what, then: t})
		}
	}
	for _, what := range []string{"a", "A", "ab", "aB", "Ab", "AB"} {
		add(what, "rlip")
	}
	for _, what := range []string{"b", "B"} {
		add(what, "rlp")
	}
	add("/", "rp")
	add("~", "r")
	return out
}

// done reports whether everything has come to its end, once nothing was left to do.
func (h *history) done() bool {
	m, o := h.m[h.lead], h.m[1-h.lead]
	if len(h.faults) > 0 || m.Node == nil || o.Node == nil || o.Primary || !h.clients[h.lead].idle() {
		return false
	}
	st := m.Node.Status()
	if st.State != mirror.StateInSync || st.Sealed != st.RemoteDurable {
		return false
	}
	if !h.ending {
		h.ending = true
		m.Cache.DestageAll(true)
		o.Cache.DestageAll(true)
	}
	return m.Cache.Dirty()+o.Cache.Dirty() == 0 && m.Node.Idle() && o.Node.Idle()
}

// live goes through the history to its end.
func (h *history) live() (err error) {
	faults := h.faults
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if _, same := r.(seenState); same {
				err = errSeen
				return
			}
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%v, faults %v: turn %d: %s\n  %s", h.mode, faults, h.turn, f.msg, strings.Join(h.events[max(0, len(h.events)-40):], "\n  "))
		}
	}()
	for i := range h.m {
		h.due[i] = 1
	}
	for !h.done() {
		if h.turn > modelTurns {
			h.never()
		}
		h.step()
	}
	a, b := h.m[0].Data.Bytes(), h.m[1].Data.Bytes()
	if !bytes.Equal(a, b) {
		fail("the data disks differ")
	}
	at := h.pin(h.lead, a)
	if x := h.lost(h.lead, at, func(*ack) bool { return true }); x != nil {
		fail("write %d, acknowledged by machine %d, is gone, and nobody said so", x.at, x.by)
	}
	return nil
}

// never says where a history that does not end stands.
func (h *history) never() {
	st := ""
	for i, m := range h.m {
		if m.Node == nil {
			st += fmt.Sprintf("\n  %d: down, due %d", i, h.due[i])
			continue
		}
		s := m.Node.Status()
		st += fmt.Sprintf("\n  %d: %s (%s, %s) primary %v sealed %d durable %d remote %d declared %d dirty %d %v term %d marks %v idle %v", i, s.State, s.Reason, s.LastError, s.Primary, s.Sealed, s.Durable, s.RemoteDurable, m.Cache.Declared(), m.Cache.Dirty(), s.Cache.Full, s.Term.Number, s.Marks, m.Node.Idle())
	}
	fail("it never ends; lead %d, ending %v%s", h.lead, h.ending, st)
}

// modelStarts make the images that histories begin with: the log has gone round, and all is destaged.
func modelBegin(slow int, more int64) *modelStart {
	s := &modelStart{slow: slow, more: more, image: make([]byte, modelBytes)}
	h := s.live(mirror.Sync, nil)
	defer h.free()
	for i, m := range h.m {
		p := seglog.Super{Log: seglog.UUID{byte(i)}, DiskBytes: modelBytes, DiskBlock: 512, ChunkBytes: modelChunk, MaxSegmentBytes: modelSegment, Marks: seglog.Inconsistent}
		if i == 0 {
			p.Volume, p.Term = seglog.UUID{9}, seglog.Term{Number: 1, ID: 5}
			p.Marks = seglog.HasPeer | seglog.Degraded | seglog.Ahead | seglog.PeerNeedsFullSync
		}
		if err := seglog.Create(m.Log, p, h.w.Drive); err != nil {
			fail("create: %v", err)
		}
	}
	if err := h.live(); err != nil {
		panic(err)
	}
	for i := range h.m {
		h.stop(i, true)
		s.data[i], s.log[i] = h.m[i].Data.Bytes(), h.m[i].Log.Bytes()
	}
	s.image = s.data[0]
	return s
}

// explorer goes through histories.
type explorer struct {
	mode      mirror.Mode
	from      *modelStart
	histories [3]int // by the number of faults
	states    map[uint64]bool
	same      int
	said      map[string]int
	turns     int
}

func newExplorer(mode mirror.Mode, slow int, more int64) *explorer {
	return &explorer{mode: mode, from: modelBegin(slow, more), states: map[uint64]bool{}, said: map[string]int{}}
}

// modelEvery is one in how many histories with two faults is lived.
const modelEvery = 4000

// errSeen is why a history was not lived to its end.
var errSeen = errors.New("it goes on as another one")

// one lives one history and gives the turns at which the next fault may come.
func (x *explorer) one(faults []fault) ([]moment, error) {
	h := x.from.live(x.mode, faults)
	h.seen = x.states
	defer h.free()
	if err := h.live(); err != nil {
		return nil, err
	}
	x.histories[len(faults)]++
	x.turns += h.turn
	for k, v := range h.said {
		x.said[k] += v
	}
	return h.changed, nil
}

// explore lives every history that begins with faults; of those with two, one in every.
func (x *explorer) explore(faults []fault, deepest int, every uint32) error {
	turns, err := x.one(faults)
	if err == errSeen {
		x.same++
		return nil
	}
	if err != nil || len(faults) == deepest {
		return err
	}
	for _, t := range turns {
		for _, f := range modelFaults() {
			if strings.Contains(f.what, "A") && !t.open[0] || strings.Contains(f.what, "B") && !t.open[1] {
				continue // the same as the small letter
			}
			f.turn = t.turn
			next := append(faults[:len(faults):len(faults)], f)
			if len(next) > 1 && every > 1 {
				d := fnv.New32a()
				fmt.Fprint(d, x.mode, next)
				if d.Sum32()%every != 0 {
					continue
				}
			}
			if err := x.explore(next, deepest, every); err != nil {
				return err
			}
		}
	}
	return nil
}

// modelCases are what histories are lived with: the mode, whose log is slow, and how much more of it machine 1 has.
var modelCases = []struct {
	mode mirror.Mode
	slow int
	more int64
}{{mirror.Sync, 0, 0}, {mirror.Sync, 1, 0}, {mirror.Sync, 1, modelChunk}, {mirror.SemiSync, 1, 0}, {mirror.Async, 0, 0}, {mirror.Async, 0, modelChunk}}

func TestEveryHistoryOfTwoMachines(t *testing.T) {
	if blktest.Raced {
		t.Skip("it takes eight times as long, and is one goroutine: `lab test` runs it without the race detector")
	}
	// All with one fault; of those with two, one in so many: all of them with ROBIB_SEEDS=4000.
	every := uint32(modelEvery)
	if os.Getenv("ROBIB_SEEDS") != "" {
		every = max(every/uint32(blktest.Seeds(t, 1)), 1)
	}
	ways := map[string]int{}
	for _, c := range modelCases {
		x := newExplorer(c.mode, c.slow, c.more)
		if err := x.explore(nil, 2, every); err != nil {
			t.Fatal(err)
		}
		t.Logf("%v, machine %d's log is slow, machine 1's %d bytes larger: %d histories with one fault, %d with two, all distinct, and %d that went on as one of them; %d turns", c.mode, c.slow, c.more, x.histories[1], x.histories[2], x.same, x.turns)
		for _, w := range []string{"up: stream", "up: full sync", "up: take the peer's tail", "degraded", "diverged", "fenced", "secondary", lackedWord} {
			if x.said[w] == 0 {
				t.Errorf("%v: never: %s", c.mode, w)
			}
		}
		for k, v := range x.said {
			ways[k] += v
		}
	}
	for _, w := range []string{"up: cut and stream", "up: map sync", "up: go on with the sync", stagedWord} {
		if ways[w] == 0 {
			t.Errorf("never: %s", w)
		}
	}
}
