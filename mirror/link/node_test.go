package link

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// ram is a disk in memory that completes at once.
type ram struct{ b []byte }

func (d *ram) Info() blk.Info {
	return blk.Info{SizeBytes: int64(len(d.b)), LogicalBytes: 512, PhysicalBytes: 4096}
}

func (d *ram) Submit(r *blk.Request) {
	r.Err = 0
	switch r.Op {
	case blk.Read:
		copy(r.Buf[:r.Length], d.b[r.Offset:])
	case blk.Write:
		copy(d.b[r.Offset:], r.Buf[:r.Length])
	case blk.WriteZeroes, blk.Discard:
		clear(d.b[r.Offset : r.Offset+r.Length])
	}
	r.Owner.Complete(r)
}
func (d *ram) Kick(blk.Instant) int64 { return blk.Never }
func (d *ram) Close() error           { return nil }

// asNetwork gives a node one end of this package's network.
type asNetwork struct {
	end interface {
		Dial()
		DialControl()
		Paths() int
		Next() (*Conn, bool, error)
		Close() error
	}
	conn    *Conn // the newest
	control *Conn
	wear    wear // of the connections to come; 0: as usual
}

func (n *asNetwork) Dial()      { n.end.Dial() }
func (n *asNetwork) Paths() int { return n.end.Paths() }

func (n *asNetwork) DialControl() { n.end.DialControl() }
func (n *asNetwork) Next() (mirror.Conn, bool, error) {
	c, control, err := n.end.Next()
	if c != nil && n.wear.most > 0 {
		c.wear = n.wear
	}
	switch {
	case c == nil:
		return nil, control, err
	case control:
		n.control = c
	default:
		n.conn = c
	}
	return c, control, nil
}

const ramBytes = 4 << 20

// half is one node of a pair over the real network.
type half struct {
	t      *testing.T
	l      *uring.Loop
	data   *ram
	net    asNetwork
	cache  *dcd.Cache
	node   *mirror.Node
	events []string
}

// nodePair is two nodes on one loop, connected by this package.
type nodePair struct {
	t    *testing.T
	l    *uring.Loop
	half [2]*half // primary, secondary
	buf  []byte
}

// newNodePair makes a primary that reaches its secondary by dial, given the listener's address.
func newNodePair(t *testing.T, l *uring.Loop, dial func(addr string) []string, change func(*mirror.Options)) *nodePair {
	a, b := paired(t)
	ln, err := NewListener(l, "0.0.0.0:0", b.key, b.trust, false)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	p := &nodePair{t: t, l: l}
	for i := range p.half {
		h := &half{t: t, l: l, data: &ram{make([]byte, ramBytes)}}
		if i == 0 {
			h.net.end = NewDialer(l, dial("127.0.0.1:"+port), a.key, a.trust)
		} else {
			h.net.end = ln
		}
		p.half[i] = h
		s := seglog.Super{DiskBytes: ramBytes, DiskBlock: 512, Marks: seglog.Inconsistent, Log: seglog.UUID{byte(i + 1)}}
		if i == 0 {
			s.Volume, s.Term = seglog.UUID{9}, seglog.Term{Number: 1, ID: 5}
			s.Marks = seglog.HasPeer | seglog.Degraded | seglog.Ahead | seglog.PeerNeedsFullSync
		}
		log := &ram{make([]byte, 64<<20)}
		drive := func() (blk.Instant, error) { return blk.Instant{Mono: l.Now()}, nil }
		if err := seglog.Create(log, s, drive); err != nil {
			t.Fatal(err)
		}
		if h.cache, err = dcd.Open(dcd.Options{Data: h.data, Log: log, Incarnation: uint64(i + 1), Follow: i == 1}, drive); err != nil {
			t.Fatal(err)
		}
		o := mirror.Options{Cache: h.cache, Net: &h.net, Primary: i == 0, Mode: mirror.Sync, Drive: drive, Random: func() uint64 { return 4 },
			Event: func(e mirror.Event) {
				h.events = append(h.events, fmt.Sprintf("%s: %s→%s %s", e.What, e.Old, e.New, e.Reason))
			},
			Timing: mirror.Timing{Heartbeat: 20e6, PeerDead: 400e6, Backoff: 5e6, BackoffTo: 50e6}}
		if change != nil {
			change(&o)
		}
		if h.node, err = mirror.New(o); err != nil {
			t.Fatal(err)
		}
	}
	if p.buf, err = blk.Alloc(1 << 20); err != nil {
		t.Fatal(err)
	}
	return p
}

// until runs both nodes until ok.
func (p *nodePair) until(what string, ok func() bool) {
	p.t.Helper()
	end := p.l.Now() + 30e9
	for !ok() {
		wake := end
		for _, h := range p.half {
			wake = min(wake, h.node.Kick(blk.Instant{Mono: p.l.Now()}))
		}
		if ok() {
			return // and nothing need come any more
		}
		if now, err := p.l.Once(wake); err != nil || now > end {
			p.t.Errorf("never: %s (%v)", what, err)
			for i, h := range p.half {
				p.t.Errorf("%d: %s\n  %s", i, h.node.Status().State, strings.Join(h.events, "\n  "))
			}
			p.t.FailNow()
		}
	}
}

func (p *nodePair) inSync() bool { return p.half[0].node.Status().State == mirror.StateInSync }

type answered bool

func (a *answered) Complete(*blk.Request) { *a = true }

// write writes b through the primary and waits for the acknowledgement.
func (p *nodePair) write(off int64, b []byte) {
	p.t.Helper()
	var done answered
	r := blk.Request{Op: blk.Write, Offset: off, Length: int64(len(b)), Buf: p.buf[:copy(p.buf, b)], Owner: &done}
	p.half[0].node.Device().Submit(&r)
	p.until("a write is acknowledged", func() bool { return bool(done) })
	if r.Err != 0 {
		p.t.Errorf("write: %v", r.Err)
	}
}

// same waits until the secondary's disk holds what it was sent, and compares.
func (p *nodePair) same(want []byte) {
	p.t.Helper()
	for _, h := range p.half {
		h.cache.DestageAll(true)
	}
	p.until("both disks hold everything", func() bool {
		return p.inSync() && p.half[0].cache.Dirty() == 0 && p.half[1].cache.Dirty() == 0
	})
	for i, h := range p.half {
		h.cache.DestageAll(false)
		if !bytes.Equal(h.data.b, want) {
			p.t.Errorf("disk %d is not what was written", i)
		}
	}
}

func (p *nodePair) close() {
	for _, h := range p.half {
		if err := h.node.Close(); err != nil {
			p.t.Error(err)
		}
	}
	step(p.t, p.l, func() bool {
		return !slices.ContainsFunc(p.half[:], func(h *half) bool {
			return h.net.conn != nil && !h.net.conn.freed || h.net.control != nil && !h.net.control.freed
		})
	})
	for _, h := range p.half {
		if err := h.net.end.Close(); err != nil {
			p.t.Error(err)
		}
		h.cache.Close()
	}
	blk.Free(p.buf)
}

// path is one way to an address, that can be lost.
type path struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	lost bool
	open []net.Conn
	wg   sync.WaitGroup
	made atomic.Int32
}

func newPath(t *testing.T, to string) *path {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{l: l, to: to}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.carry(c)
		}
	})
	return p
}

// twoPaths is a pair of nodes with two ways from one to the other; whoever closes it closes the pair first.
func twoPaths(t *testing.T, l *uring.Loop) (p *nodePair, paths [2]*path) {
	p = newNodePair(t, l, func(addr string) []string {
		paths = [2]*path{newPath(t, addr), newPath(t, addr)}
		return []string{paths[0].addr(), paths[1].addr()}
	}, nil)
	return p, paths
}

func (p *path) carry(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := net.Dial("tcp", p.to)
	if p.lost || err != nil {
		c.Close()
		if err == nil {
			d.Close()
		}
		return
	}
	p.made.Add(1)
	p.open = append(p.open, c, d)
	for _, x := range [][2]net.Conn{{c, d}, {d, c}} {
		p.wg.Go(func() {
			b := make([]byte, 64<<10)
			for {
				n, err := x[0].Read(b)
				p.mu.Lock()
				lost := p.lost
				p.mu.Unlock()
				if err == nil && !lost { // what comes on a lost path is swallowed, as by a dead router
					_, err = x[1].Write(b[:n])
				}
				if err != nil {
					x[1].Close()
					return
				}
			}
		})
	}
}

// lose makes the path swallow everything; new connections fail.
func (p *path) lose(on bool) {
	p.mu.Lock()
	p.lost = on
	p.mu.Unlock()
}

func (p *path) addr() string { return p.l.Addr().String() }

func (p *path) close() {
	p.l.Close()
	p.mu.Lock()
	for _, c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// fill writes a pattern that depends on seed.
func fill(b []byte, seed int) []byte {
	for i := range b {
		b[i] = byte(seed + i*7 + i>>9)
	}
	return b
}

// Compression is turned on and off while the volume serves; what arrives is what was written, and
// far fewer bytes cross. Zeros do not cross at all, not even in a full sync.
func TestCompressedSession(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		p := newNodePair(t, l, func(addr string) []string { return []string{addr} }, nil)
		defer p.close()
		want := make([]byte, ramBytes)
		text := []byte(strings.Repeat("a line of a log file, like those before it\n", 64<<10/43))
		at := int64(0)
		load := func(b []byte) (wire, raw uint64) {
			before := p.half[0].node.Status()
			for range 8 {
				copy(want[at:], b)
				p.write(at, want[at:][:64<<10])
				at += 64 << 10
			}
			after := p.half[0].node.Status()
			return after.SentBytes - before.SentBytes, after.RawBytes - before.RawBytes
		}
		p.until("in sync", p.inSync)
		if s := p.half[0].node.Status(); s.SentBytes > ramBytes/100 {
			t.Errorf("%d bytes were sent for a full sync of zeros", s.SentBytes)
		}
		if sent, raw := load(text); sent != raw || raw < 8*64<<10 {
			t.Errorf("off: %d bytes sent for %d", sent, raw)
		}
		out := p.half[0].net.conn.BytesOut
		if sent, raw := load(make([]byte, 64<<10)); sent > raw-8*64<<10+8*64 { // headers, and no more
			t.Errorf("zeros: %d bytes sent for %d", sent, raw)
		}
		if err := p.half[0].node.SetCompress(true); err != nil {
			t.Fatal(err)
		}
		if sent, raw := load(text); sent > raw/10 || !p.half[0].node.Status().Compressing {
			t.Errorf("zstd: %d bytes sent for %d", sent, raw)
		}
		if n := p.half[0].net.conn.BytesOut - out; n > 100<<10 {
			t.Errorf("%d bytes crossed the connection", n)
		}
		random := make([]byte, 64<<10)
		rand.NewChaCha8([32]byte{}).Read(random)
		if sent, raw := load(random); sent != raw || p.half[0].node.Status().Pack.Skipped == 0 {
			t.Errorf("random: %d bytes sent for %d", sent, raw)
		}
		if err := p.half[0].node.SetCompress(false); err != nil {
			t.Fatal(err)
		}
		if sent, raw := load(text); sent != raw {
			t.Errorf("off again: %d bytes sent for %d", sent, raw)
		}
		p.same(want)
		s := p.half[0].node.Status()
		t.Logf("%d bytes sent for %d: %+v", s.SentBytes, s.RawBytes, s.Pack)
	})
}
