package volume

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// ram completes everything at once and keeps nothing: what is measured is the stack alone.
type ram struct{ size int64 }

func (d *ram) Info() blk.Info {
	return blk.Info{SizeBytes: d.size, LogicalBytes: 512, PhysicalBytes: 4096}
}
func (d *ram) Submit(r *blk.Request)  { r.Err = 0; r.Owner.Complete(r) }
func (d *ram) Kick(blk.Instant) int64 { return blk.Never }
func (d *ram) Close() error           { return nil }

// pipe is a buffered connection in memory: frames are copied into slots made beforehand.
type pipe struct {
	peer       *pipe
	slots      [64]wire.Frame
	bufs       [64][]byte
	head, tail int
}

func (p *pipe) Send(f *wire.Frame) bool {
	q := p.peer
	if q.head-q.tail == len(q.slots) {
		return false
	}
	i := q.head % len(q.slots)
	q.slots[i] = *f
	q.slots[i].Body = append(q.bufs[i][:0], f.Body...)
	q.head++
	return true
}

func (p *pipe) Recv() (f wire.Frame, ok bool) {
	if p.tail == p.head {
		return f, false
	}
	f = p.slots[p.tail%len(p.slots)]
	p.tail++
	return f, true
}

func (p *pipe) Received() uint64             { return uint64(p.head) }
func (p *pipe) Acknowledged() (uint64, bool) { return uint64(p.peer.tail), p.peer.head == p.peer.tail }

func (p *pipe) Key() string { return "" }
func (p *pipe) Worn() bool  { return false }

func (p *pipe) Err() error   { return nil }
func (p *pipe) Close() error { return nil }
func (p *pipe) Peer() string { return "pipe" }

func (p *pipe) TCP() (t wire.TCP, ok bool) { return t, false }

// oneSession is a data connection, and a control connection once it is dialed.
type oneSession struct {
	c, control *pipe
	dialed     bool
}

func (n *oneSession) Dial()      {}
func (n *oneSession) Paths() int { return 1 }

func (n *oneSession) DialControl() { n.dialed = true }
func (n *oneSession) Next() (mirror.Conn, bool, error) {
	if c := n.c; c != nil {
		n.c = nil
		return c, false, nil
	}
	if c := n.control; c != nil && n.dialed {
		n.control = nil
		return c, true, nil
	}
	return nil, false, nil
}

// pipes gives both ends of a connection.
func pipes() (a, b *pipe) {
	a, b = &pipe{}, &pipe{}
	a.peer, b.peer = b, a
	for i := range a.bufs {
		a.bufs[i], b.bufs[i] = make([]byte, 0, 256<<10), make([]byte, 0, 256<<10)
	}
	return a, b
}

func testNode(t testing.TB, primary bool, c, control *pipe) (*mirror.Node, *dcd.Cache) {
	t.Helper()
	const size = 256 << 20
	w := blktest.NewWorld(1)
	log := blktest.NewDisk(w, "log", 32<<20, 1000)
	s := seglog.Super{DiskBytes: size, DiskBlock: 512, Marks: seglog.HasPeer}
	s.Volume = seglog.UUID{1}
	s.Term = seglog.Term{Number: 1, ID: 1}
	if err := seglog.Create(log, s, w.Drive); err != nil {
		t.Fatal(err)
	}
	made, err := seglog.Probe(log, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := dcd.Open(dcd.Options{Data: &ram{size}, Super: &made, Incarnation: 1, Follow: !primary}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	n, err := mirror.New(mirror.Options{Cache: cache, Net: &oneSession{c: c, control: control}, Primary: primary, Mode: mirror.Sync, Drive: w.Drive, Random: func() uint64 { return 4 },
		Timing: mirror.Timing{Heartbeat: 10e6}})
	if err != nil {
		t.Fatal(err)
	}
	return n, cache
}

// synced is a volume in sync: primary and secondary in this process, joined by a buffered connection,
// and a queue of which the kernel's side is faked.
type synced struct {
	pri, sec      *mirror.Node
	fake          *ublk.Fake
	now           blk.Instant
	depth, issued int
}

func newSynced(t testing.TB, depth int) *synced {
	t.Helper()
	a, b := pipes()
	c, d := pipes()
	v := &synced{depth: depth, now: blk.Instant{Mono: 1e9}}
	var cache *dcd.Cache
	v.pri, cache = testNode(t, true, a, c)
	v.sec, _ = testNode(t, false, b, d)
	var err error
	if v.fake, err = ublk.NewFake(cache, depth, 64<<10); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		v.turn()
	}
	if st := v.pri.Status(); st.State != mirror.StateInSync {
		t.Fatalf("%s: %s", st.State, st.Reason)
	}
	return v
}

func (v *synced) turn() {
	v.now.Mono += 10_000
	v.fake.Now = v.now.Mono
	v.pri.Kick(v.now)
	v.fake.Queue.Kick(v.now)
	v.sec.Kick(v.now)
}

// write does n writes of 4 KiB, as many at once as the queue is deep.
func (v *synced) write(n int) {
	v.issued = v.fake.Commits
	for want := v.fake.Commits + n; v.fake.Commits < want; {
		for v.fake.Free() > 0 && v.issued < want {
			v.issued++
			v.fake.Issue(blk.Write, 0, int64(v.issued*7919%50000)*4096, 4096, nil)
		}
		v.turn()
	}
}

// 10,000 4-KiB writes in sync mode, through the queue (its kernel side faked), the cache, the
// mirror, a buffered connection and the other side's cache, allocate nothing.
func TestSyncWritesAllocateNothing(t *testing.T) {
	v := newSynced(t, 32)
	v.write(20000) // until everything that grows has grown
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v.write(10000)
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > 20 { // the runtime's own, now and then
		t.Fatalf("%d allocations for 10,000 writes", n)
	}
	st := v.pri.Status()
	if !st.Control || st.RoundTripNanos == 0 {
		t.Errorf("control connection up: %v, round trip %d ns", st.Control, st.RoundTripNanos)
	}
	if st.State != mirror.StateInSync || st.RemoteDurable == 0 || v.sec.Status().Sealed != st.Sealed {
		t.Fatalf("%s, remote durable %d of %d", st.State, st.RemoteDurable, st.Sealed)
	}
	for tag := range 32 {
		if res, done := v.fake.Result(tag); !done || res != 4096 {
			t.Fatalf("tag %d: %d %v", tag, res, done)
		}
		// A write passes every stage of a mirrored volume but the data disk.
		s := v.fake.Stamps(tag)
		if s[blk.Pickup] == 0 || s[blk.Begun] < s[blk.Pickup] || s[blk.LogDone] < s[blk.Begun] || s[blk.PeerSent] == 0 || s[blk.PeerAcked] <= s[blk.PeerSent] || s[blk.Committed] < s[blk.PeerAcked] || s[blk.DataDone] != 0 {
			t.Fatalf("tag %d: stamps %v", tag, s)
		}
	}
}

// BenchmarkSyncWrite is a 4-KiB write in sync mode, both ends: all the servers' own work but that of
// the rings and of the disks, which complete at once.
func BenchmarkSyncWrite(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run("depth "+strconv.Itoa(depth), func(b *testing.B) {
			v := newSynced(b, depth)
			v.write(20000)
			b.ReportAllocs()
			b.ResetTimer()
			v.write(b.N)
		})
	}
}
