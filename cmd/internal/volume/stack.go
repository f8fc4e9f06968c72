package volume

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/link"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
	"github.com/robib-ublk/robib/uring"
)

const tokenTTL = 10 * time.Minute

// stack is what the loop's thread owns: ring, disks, cache, node, queue.
type stack struct {
	s         *Server
	loop      *uring.Loop
	disk, log *filedev.Disk
	cache     *dcd.Cache
	node      *mirror.Node
	queue     *ublk.Queue
	tagsBack  chan struct{}
	net       *network

	wallAt, wallAhead int64 // Mono when the wall clock was read, and what it is ahead of Mono
}

// run opens everything, says so, and runs the loop until it is stopped.
func (k *stack) run(opened chan<- error) {
	runtime.LockOSThread()
	l, err := uring.NewLoop(loopOptions())
	if err != nil {
		opened <- err
		return
	}
	if err := k.open(l); err != nil {
		opened <- errors.Join(err, l.Close())
		return
	}
	k.loop = l
	opened <- nil
	err = l.Run(k.kick)
	if k.net != nil {
		err = errors.Join(err, k.net.Close())
	}
	k.s.loopErr = err
	close(k.s.ended)
}

// wallEvery is how often the wall clock, a label only, is read anew.
const wallEvery = 250_000_000

func (k *stack) kick(mono int64) int64 {
	if mono-k.wallAt > wallEvery {
		k.wallAt, k.wallAhead = mono, time.Now().UnixNano()-mono
	}
	now := blk.Instant{Mono: mono, Wall: mono + k.wallAhead}
	wake := k.node.Kick(now)
	if k.queue != nil {
		k.queue.Kick(now)
	}
	return wake
}

func (k *stack) open(l *uring.Loop) (err error) {
	in, c := &k.s.o.In, k.s.c
	if in.Pipe != nil {
		// From here on only the ring holds it: its end proves that the ring's I/O has ended.
		if _, err := l.RegisterFile(int(in.Pipe.Fd())); err != nil {
			return err
		}
		if err := in.Pipe.Close(); err != nil {
			return err
		}
	}
	o := dcd.Options{Incarnation: random(), Follow: c.Role == Secondary, AcceptDisk: k.s.o.AcceptDisk,
		Ordered: c.Ordered, LowWater: c.LowWater, HighWater: c.HighWater}
	if in.Disk != nil {
		if k.disk, err = filedev.Open(l, in.Disk, filedev.Options{}); err != nil {
			return err
		}
		o.Data = k.disk
	}
	if in.Log != nil {
		if k.log, err = filedev.Open(l, in.Log, filedev.Options{}); err != nil {
			return err
		}
		o.Log = k.log
	} else {
		o.Super = blankSuper(c)
	}
	drive := driveLoop(l)
	if k.cache, err = dcd.Open(o, drive); err != nil {
		return k.explain(err)
	}
	for _, m := range k.cache.Memory() {
		l.RegisterBuffer(m) // best effort: it saves time only
	}
	mode, err := mirror.ParseMode(c.Mode)
	if err != nil {
		return err
	}
	m := mirror.Options{Cache: k.cache, Primary: c.Role == Primary, Mode: mode, Name: c.Name, Drive: drive, Random: random,
		StartAlone: k.s.o.StartAlone || k.s.o.New && c.FirstAlone, Reattached: k.s.o.Reattach, Lost: in.Disk == nil || in.Log == nil, Blank: in.Log == nil, RateLimit: c.RateLimit, Compress: c.Compress != "",
		Event: func(e mirror.Event) { k.event(e) }, Keep: k.keep}
	if k.net, err = openNetwork(l, c); err != nil {
		return err
	}
	if k.net != nil {
		m.Net = k.net
	}
	k.node, err = mirror.New(m)
	return err
}

// explain adds the remedy to what keeps a volume from opening.
func (k *stack) explain(err error) error {
	c := k.s.c
	switch {
	case errors.Is(err, dcd.ErrChanged):
		return fmt.Errorf("%w: something wrote %s since (a mount, mkfs, LVM?); replaying the log would damage it. If the disk's state now is the one you want, `robib-ublk %s --name %s --accept-disk` replays the log over it all the same", err, c.Disk, verb(c.Role), c.Name)
	default:
		return err
	}
}

func (k *stack) event(e mirror.Event) {
	k.s.o.Logf("%s: %s %s→%s reason=%q", k.s.c.Name, e.What, e.Old, e.New, e.Reason)
}

// call runs f on the loop's thread and waits for it.
func (k *stack) call(f func()) error {
	done := make(chan struct{})
	if !k.loop.Post(func() { f(); close(done) }) {
		return errors.New("the server is ending")
	}
	<-done
	return nil
}

// stop lets I/O under way end, then ends the loop.
func (k *stack) stop() {
	end := time.Now().Add(10 * time.Second)
	for time.Now().Before(end) {
		idle := false
		if k.call(func() {
			k.cache.HoldDestage(true)
			idle = k.node.Idle()
		}) != nil || idle {
			break
		}
		time.Sleep(poll)
	}
	k.call(func() {
		// Best effort: what is still in flight ends with the ring, and the supervisor waits for that.
		k.node.Close()
	})
	k.loop.Stop()
}

// maxIO bounds the kernel's requests by what one segment of the log takes.
func (k *stack) maxIO() int {
	return int(min(ublk.DefaultMaxIO, k.cache.MaxWrite()/4096*4096))
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// blankSuper stands in for a lost log: the peer's chain tells how it goes on.
func blankSuper(c *Config) *seglog.Super {
	s := &seglog.Super{DiskBytes: c.DiskBytes / 4096 * 4096, DiskBlock: int32(max(c.DiskBlock, 512)), DiskIdentity: c.DiskID, BlockBytes: 512, RingBytes: seglog.DefaultRAMBytes, ChunkBytes: seglog.DefaultRAMBytes,
		MaxSegmentBytes: seglog.DefaultMaxSegmentBytes, RingOffset: 1 << 20, Start: seglog.Point{LSN: 1}, Marks: seglog.HasPeer | seglog.Degraded | seglog.Ahead}
	s.Volume = parseUUID(c.Volume)
	return s
}

func parseUUID(text string) (u seglog.UUID) {
	n := 0
	for _, r := range text {
		v := -1
		switch {
		case r >= '0' && r <= '9':
			v = int(r - '0')
		case r >= 'a' && r <= 'f':
			v = int(r-'a') + 10
		}
		if v < 0 || n >= 32 {
			continue
		}
		u[n/2] = u[n/2]<<4 | byte(v)
		n++
	}
	return u
}

// network adapts the link to what a node asks for; a volume has a dialer or a listener.
type network struct {
	dial   *link.Dialer
	listen *link.Listener
	using  string // the address that the newest connection was made to
}

// openNetwork makes the volume's end of the network; nil when no peer is configured.
func openNetwork(l *uring.Loop, c *Config) (*network, error) {
	if c.Remote == "" && c.Listen == "" {
		return nil, nil
	}
	key, trust, err := Identity()
	if err != nil {
		return nil, err
	}
	if c.Remote != "" {
		addrs, err := link.ParseAddresses(c.Remote)
		if err != nil {
			return nil, err
		}
		d := link.NewDialer(l, addrs, key, trust)
		d.Plain(c.Plain)
		return &network{dial: d}, nil
	}
	ln, err := link.NewListener(l, c.Listen, key, trust, c.Plain)
	if err != nil {
		return nil, err
	}
	return &network{listen: ln}, nil
}

func (n *network) Dial() {
	if n.dial != nil {
		n.dial.Dial()
	}
}

func (n *network) Next() (mirror.Conn, error) {
	var c *link.Conn
	var err error
	if n.dial != nil {
		c, err = n.dial.Next()
	} else {
		c, err = n.listen.Next()
	}
	if c == nil {
		return nil, err
	}
	n.using = c.Address()
	return c, nil
}

func (n *network) Close() error {
	if n.dial != nil {
		return n.dial.Close()
	}
	return n.listen.Close()
}

func (k *stack) address() string {
	if k.net != nil && k.net.listen != nil {
		return k.net.listen.Addr().String()
	}
	return k.s.c.Remote
}

func (k *stack) token() (string, error) {
	if k.net == nil || k.net.listen == nil {
		return "", fmt.Errorf("volume %s does not listen: tokens come from the side that serves", k.s.c.Name)
	}
	return k.net.listen.Token(tokenTTL)
}
