package ublk

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
)

// The commands as linux/ublk_cmd.h encodes them.
func TestCommandEncodings(t *testing.T) {
	for got, want := range map[uint32]uint32{cmdAdd: 0xc0207504, cmdDel: 0xc0207505, cmdStart: 0xc0207506, cmdStop: 0xc0207507, cmdSetParams: 0xc0207508,
		cmdGetDevInfo: 0x80207502, cmdGetFeatures: 0x80207513, cmdStartRecovery: 0xc0207510, cmdEndRecovery: 0xc0207511, ioFetch: 0xc0107520, ioCommit: 0xc0107521} {
		if got != want {
			t.Errorf("%#x, want %#x", got, want)
		}
	}
}

func TestParams(t *testing.T) {
	base := blk.Info{SizeBytes: 1 << 30, LogicalBytes: 512, PhysicalBytes: 4096}
	for name, r := range map[string]struct {
		change func(i *blk.Info)
		ok     func(p params) bool
	}{
		"plain": {func(*blk.Info) {}, func(p params) bool {
			return p.basic.attrs == 0 && p.types == paramBasic && p.basic.logicalShift == 9 && p.basic.physicalShift == 12 && p.basic.devSectors == 1<<21 && p.basic.maxSectors == 1024
		}},
		"4Kn":        {func(i *blk.Info) { i.LogicalBytes = 4096 }, func(p params) bool { return p.basic.logicalShift == 12 }},
		"cache":      {func(i *blk.Info) { i.VolatileCache = true }, func(p params) bool { return p.basic.attrs == attrVolatileCache|attrFUA }},
		"read-only":  {func(i *blk.Info) { i.ReadOnly = true }, func(p params) bool { return p.basic.attrs == attrReadOnly }},
		"rotational": {func(i *blk.Info) { i.Rotational = true }, func(p params) bool { return p.basic.attrs == attrRotational }},
		"discard": {func(i *blk.Info) { i.Discard = true }, func(p params) bool {
			return p.types == paramBasic|paramDiscard && p.discard.granularity == 512 && p.discard.maxSegments == 1 && p.discard.maxSectors > 0 && p.discard.maxZeroSectors == 0
		}},
	} {
		i := base
		r.change(&i)
		if p, err := paramsOf(i, 512<<10); err != nil || !r.ok(p) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
	for _, bad := range []blk.Info{{SizeBytes: 512, LogicalBytes: 512, PhysicalBytes: 512}, {SizeBytes: 1 << 30, LogicalBytes: 1000, PhysicalBytes: 4096}, {SizeBytes: 1 << 30, LogicalBytes: 8192, PhysicalBytes: 8192}} {
		if _, err := paramsOf(bad, 512<<10); err == nil {
			t.Errorf("%+v passed", bad)
		}
	}
}

// mem is a device in memory that answers in Kick, in a seeded order.
type mem struct {
	b    []byte
	wait []*blk.Request
	rnd  *rand.Rand
}

func (m *mem) Info() blk.Info {
	return blk.Info{SizeBytes: int64(len(m.b)), LogicalBytes: 512, PhysicalBytes: 512}
}
func (m *mem) Submit(r *blk.Request) { r.Err = 0; m.wait = append(m.wait, r) }
func (m *mem) Close() error          { return nil }
func (m *mem) Kick(blk.Instant) int64 {
	for n := m.rnd.IntN(len(m.wait) + 1); n > 0; n-- {
		i := m.rnd.IntN(len(m.wait))
		r := m.wait[i]
		m.wait[i] = m.wait[len(m.wait)-1]
		m.wait = m.wait[:len(m.wait)-1]
		switch r.Op {
		case blk.Read:
			copy(r.Buf, m.b[r.Offset:r.Offset+r.Length])
		case blk.Write:
			copy(m.b[r.Offset:], r.Buf[:r.Length])
		}
		r.Owner.Complete(r)
	}
	return blk.Never
}

// 100,000 requests of all kinds: every tag comes back, each with the right result.
func TestTagsAreNeverLost(t *testing.T) {
	m := &mem{b: make([]byte, 1<<20), rnd: rand.New(rand.NewPCG(1, 1)), wait: make([]*blk.Request, 0, 64)}
	f, err := NewFake(m, 32, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make([]int32, 32)
	var counts Counts
	for n := 0; n < 100_000; {
		for f.Free() > 0 && m.rnd.IntN(4) > 0 {
			n++
			off, k := m.rnd.Int64N(1800)*512, (1+m.rnd.Int64N(128))*512
			op := []blk.Op{blk.Read, blk.Write, blk.Flush}[m.rnd.IntN(3)]
			if m.rnd.IntN(50) == 0 {
				off = 1 << 20 // beyond the end
			}
			tag := f.Issue(op, blk.Flags(m.rnd.IntN(2)), off, k, nil)
			counts.Requests[op]++
			switch {
			case op == blk.Flush:
				want[tag] = 0
			case off+k > 1<<20:
				want[tag] = -int32(unix.EIO)
				counts.Failed[op]++
			default:
				want[tag] = int32(k)
				counts.Bytes[op] += uint64(k)
			}
		}
		m.Kick(blk.Instant{})
		f.Queue.Kick(blk.Instant{})
		for tag := range want {
			if res, done := f.Result(tag); done && f.Commits > 0 && res != want[tag] {
				t.Fatalf("tag %d: %d, want %d", tag, res, want[tag])
			}
		}
	}
	for len(m.wait) > 0 {
		m.Kick(blk.Instant{})
	}
	f.Queue.Kick(blk.Instant{})
	if f.Free() != 32 {
		t.Fatalf("%d of 32 tags came back", f.Free())
	}
	if got := (&Queues{list: []*Queue{f.Queue}}).Counts(); got != counts {
		t.Errorf("counted %+v, want %+v", got, counts)
	}
}

func TestUnknownOperation(t *testing.T) {
	f, err := NewFake(&blk.Null{SizeBytes: 1 << 20}, 4, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tag := f.Issue(blk.Op(9), 0, 0, 512, nil)
	f.Queue.Kick(blk.Instant{})
	if res, done := f.Result(tag); !done || res != -int32(unix.EOPNOTSUPP) {
		t.Fatal(res, done)
	}
}

// Descriptors may lie further apart than their size: the driver says how far.
func TestDescriptorStride(t *testing.T) {
	b := make([]byte, 4*40)
	binary.LittleEndian.PutUint32(b[3*40:], opWrite|flagFUA)
	binary.LittleEndian.PutUint64(b[3*40+8:], 77)
	if d := desc(b, 40, 3); d.startSector != 77 || d.opFlags != opWrite|flagFUA {
		t.Fatalf("%+v", d)
	}
}

func TestRequestAllocatesNothing(t *testing.T) {
	f, err := NewFake(&blk.Null{SizeBytes: 1 << 30}, 32, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := testing.AllocsPerRun(1000, func() {
		for range 32 {
			f.Issue(blk.Write, 0, 4096, 4096, nil)
		}
		f.Queue.Kick(blk.Instant{})
	}); n != 0 {
		t.Fatalf("%v allocations per batch", n)
	}
}

// driverFake answers commands from a script.
type driverFake struct {
	answers []int32
	hang    bool
	ops     []uint32
	flags   uint64
}

func (d *driverFake) close() error { return nil }
func (d *driverFake) do(op uint32, _ ctrlCmd, buf []byte, timeout time.Duration) (int32, []byte, bool, error) {
	d.ops = append(d.ops, op)
	if d.hang {
		<-time.After(timeout)
		return 0, nil, false, nil
	}
	res := int32(0)
	if len(d.answers) > 0 {
		res, d.answers = d.answers[0], d.answers[1:]
	}
	out := append([]byte(nil), buf...)
	if op == cmdAdd {
		binary.LittleEndian.PutUint64(out[24:], d.flags)
	}
	return res, out, true, nil
}

func TestControlCommands(t *testing.T) {
	hung := &Control{k: &driverFake{hang: true}, Timeout: 10 * time.Millisecond}
	var late *TimeoutError
	if _, err := hung.Add(AddOptions{ID: 3}); !errors.As(err, &late) || late.Device != 3 || late.Command != "add" {
		t.Error(err)
	}
	again := &driverFake{answers: []int32{-int32(unix.EINTR), -int32(unix.EINTR), 0}}
	if _, err := (&Control{k: again}).command("start", cmdStart, 0, 0, nil, 0); err != nil || len(again.ops) != 3 {
		t.Error(err, len(again.ops))
	}
	taken := &Control{k: &driverFake{answers: []int32{-int32(unix.EEXIST)}}}
	if _, err := taken.Add(AddOptions{ID: 7}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Error(err)
	}
	var refused *CommandError
	if _, err := (&Control{k: &driverFake{answers: []int32{-int32(unix.EPERM)}}}).Add(AddOptions{ID: -1}); !errors.As(err, &refused) || refused.Errno != syscall.EPERM {
		t.Error(err)
	}
	old := &driverFake{flags: FeatIoctlEncode}
	var missing *FeatureError
	if _, err := (&Control{k: old}).Add(AddOptions{ID: -1}); !errors.As(err, &missing) || !strings.Contains(err.Error(), "USER_RECOVERY (since Linux 6.1)") {
		t.Error(err)
	}
	if n := len(old.ops); n != 2 || old.ops[1] != cmdDel {
		t.Error("a device that cannot be recovered was left behind")
	}
	for _, e := range []unix.Errno{unix.EBUSY, unix.EINVAL} {
		stopped := &driverFake{answers: []int32{-int32(e), 0}} // what it says of a device is all zeros: dead
		if err := (&Device{c: &Control{k: stopped}}).StartRecovery(); !errors.Is(err, ErrStopped) || stopped.ops[1] != cmdGetDevInfo {
			t.Error("a device that its server stopped before it died cannot be recovered, and nobody said so:", err)
		}
	}
	if _, err := (&Control{k: old}).Add(AddOptions{Depth: 100000}); err == nil {
		t.Error("depth 100000 passed")
	}
}

// hoarder keeps the buffers of reads and gives others back, as a device must whose disk hangs.
type hoarder struct {
	blk.Null
	wrote []byte
}

func (h *hoarder) Submit(r *blk.Request) {
	if r.Op == blk.Read {
		r.Buf = make([]byte, cap(r.Buf))[:r.Length]
	} else {
		h.wrote = append([]byte(nil), r.Buf...)
	}
	h.Null.Submit(r)
}

// A tag whose buffer was quarantined lives on in the spare: the driver copies the next write there.
func TestSpareBufferBecomesTheTags(t *testing.T) {
	h := &hoarder{Null: blk.Null{SizeBytes: 1 << 20}}
	f, err := NewFake(h, 1, 8192)
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(3) {
		f.Issue(blk.Read, 0, 0, 512, nil)
		f.Queue.Kick(blk.Instant{})
		f.Issue(blk.Write, 0, 0, 4096, func(b []byte) { b[0], b[4095] = i+1, i+1 })
		f.Queue.Kick(blk.Instant{})
		if len(h.wrote) != 4096 || h.wrote[0] != i+1 || h.wrote[4095] != i+1 {
			t.Fatalf("round %d: the device got another buffer than the driver filled", i)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Traced requests begin with no stamps of the tag's last one; what is not traced has nowhere to put any.
func TestTrace(t *testing.T) {
	f, err := NewFake(&blk.Null{SizeBytes: 1 << 20}, 2, 4096)
	if err != nil {
		t.Fatal(err)
	}
	stamps := make([]blk.Stamps, 2)
	s := f.Queues()
	s.Trace(func(queue, tag int) *blk.Stamps { return &stamps[queue*2+tag] }, nil)
	for i := range stamps {
		stamps[i] = blk.Stamps{blk.LogDone: 7, blk.Committed: 8}
	}
	f.Now = 100
	tag := f.Issue(blk.Read, 0, 0, 4096, nil)
	s.Kick(blk.Instant{Mono: 130})
	if want := (blk.Stamps{blk.Pickup: 100, blk.Committed: 130}); stamps[tag] != want {
		t.Errorf("%v, want %v", stamps[tag], want)
	}
	s.Traced(func(int, *blk.Request) { t.Error("nothing is under way") })
	s.Trace(nil, nil)
	tag = f.Issue(blk.Read, 0, 0, 4096, nil)
	s.Kick(blk.Instant{Mono: 150})
	if stamps[tag][blk.Committed] == 150 {
		t.Error("stamped when not traced")
	}
}

// holder keeps requests until it gives them back.
type holder struct {
	blk.Null
	q blk.Queue
}

func (h *holder) Info() blk.Info        { return blk.Info{SizeBytes: 1 << 20} }
func (h *holder) Submit(r *blk.Request) { h.q.Push(r) }
func (h *holder) give() {
	for r := h.q.Pop(); r != nil; r = h.q.Pop() {
		h.Null.Submit(r)
	}
}

// An observer gets each request once, with the moment at which it is committed; until then it is under way.
func TestObserver(t *testing.T) {
	h := &holder{}
	f, err := NewFake(h, 2, 4096)
	if err != nil {
		t.Fatal(err)
	}
	stamps := make([]blk.Stamps, 2)
	s := f.Queues()
	var seen []blk.Stamps
	f.Now = 90
	f.Issue(blk.Flush, 0, 0, 0, nil) // before
	s.Trace(func(_, tag int) *blk.Stamps { return &stamps[tag] }, func(queue int, r *blk.Request) {
		if r.Op == blk.Write && (queue != 0 || r.Offset != 4096) {
			t.Errorf("queue %d, %+v", queue, r)
		}
		seen = append(seen, *r.Stamps)
	})
	f.Queue.clock = func() int64 { return 150 }
	f.Now = 100
	f.Issue(blk.Write, 0, 4096, 4096, nil)
	under := 0
	s.Traced(func(int, *blk.Request) { under++ })
	h.give()
	s.Kick(blk.Instant{Mono: 130})
	s.Traced(func(int, *blk.Request) { under += 10 })
	if want := (blk.Stamps{blk.Pickup: 100, blk.Committed: 150}); under != 1 || len(seen) != 2 || !slices.Contains(seen, want) || !slices.Contains(seen, blk.Stamps{blk.Committed: 150}) {
		t.Errorf("%d under way, seen %v", under, seen)
	}
}
