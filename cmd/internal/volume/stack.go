package volume

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/supervise"
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
	queue     *ublk.Queues
	tagsBack  chan struct{}
	net       *network
	kept      keeper
	ram       *ramFile       // nil: no volatile write cache
	notes     sync.WaitGroup // what is written beside the loop
	broken    error          // why nothing may be served, although everything could be opened

	marked logMark // what mark has
	mark   atomic.Pointer[logMark]

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
	k.loop = l
	if err := k.open(l); err != nil {
		k.loop = nil
		opened <- errors.Join(err, l.Close())
		return
	}
	k.noteLog()
	opened <- nil
	err = l.Run(k.kick)
	k.noteLog()
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
		k.noteLog()
	}
	now := blk.Instant{Mono: mono, Wall: mono + k.wallAhead}
	wake := k.node.Kick(now)
	if k.queue != nil {
		k.queue.Kick(now)
	}
	return wake
}

func (k *stack) open(l *uring.Loop) (err error) {
	in, c := &k.s.o.In, k.s.conf()
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
		Bypass: c.bypassBytes(), Ordered: c.Ordered, LowWater: c.LowWater, HighWater: c.HighWater, DiskNanos: c.DiskDeadline * nanosPerMilli}
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
	if c.WriteCache && c.Role == Primary && k.log != nil {
		if err := k.openWriteCache(&o, drive); err != nil {
			return err
		}
	}
	if k.cache, err = k.openCache(o, drive); err != nil {
		return k.explain(err)
	}
	if k.log != nil && !k.s.o.AcceptLog && !k.s.o.Reattach {
		if err := checkMark(c.Name, c.Log, k.logMark(), true); err != nil {
			return err
		}
	}
	if k.ram != nil {
		k.ram.claim(k.cache.Log().Super().Log, o.Incarnation)
	}
	for _, m := range k.cache.Memory() {
		l.RegisterBuffer(m) // best effort: it saves time only
	}
	if c.Role == Secondary {
		if err := fencedNote.remove(c.Name); err != nil {
			return err
		}
	}
	if c.Demoted && c.Role == Secondary {
		if err := k.demoted(drive); err != nil {
			return err
		}
	}
	mode, err := mirror.ParseMode(c.Mode)
	if err != nil {
		return err
	}
	lost, err := mirror.ParseOnDisconnect(c.OnDisconnect)
	if err != nil {
		return err
	}
	m := mirror.Options{OnDisconnect: lost, Cache: k.cache, Primary: c.Role == Primary, Mode: mode, Name: c.Name, Drive: drive, Random: random,
		StartAlone: k.s.o.StartAlone || k.s.o.New && c.FirstAlone, DeadFor: k.deadFor(), Fenced: fencedNote.there(c.Name), Lost: in.Disk == nil || k.log == nil, Blank: k.log == nil, RateLimit: c.RateLimit, Compress: c.Compress != "",
		Discard: k.s.o.Discard, Timing: mirror.Timing{Heartbeat: c.Heartbeat * nanosPerMilli, PeerDead: c.PeerDead * nanosPerMilli, StartWait: c.StartWait * nanosPerMilli, Remote: c.RemoteWait * nanosPerMilli},
		Event: func(e mirror.Event) { k.event(e) }, Keep: k.keep, Asked: k.s.asked}
	if k.net == nil {
		if k.net, err = openNetwork(l, c, k.paired, k.alarm); err != nil {
			return err
		}
	}
	if k.net != nil {
		m.Net = k.net
	}
	if k.node, err = mirror.New(m); err != nil {
		return err
	}
	k.pauses(c)
	k.putWaits(c)
	if k.broken != nil {
		k.node.Fail(k.broken)
	}
	return nil
}

// pauses makes stand still what the user wants to.
func (k *stack) pauses(c *Config) {
	k.cache.PauseDestage(c.NoDestage)
	k.node.PauseResync(c.NoResync)
	k.node.Disconnect(c.Apart)
}

// demoted makes up in the log for a demotion while no server ran.
func (k *stack) demoted(drive blk.Drive) error {
	l := k.cache.Log()
	if err := l.Sync(l.Update(mirror.AsDemoted), drive); err != nil {
		return err
	}
	_, err := k.s.rewrite(func(c *Config) error {
		c.Demoted = false
		return nil
	})
	return err
}

// openWriteCache finds the memory that the write cache is kept in, and what a killed server left there.
func (k *stack) openWriteCache(o *dcd.Options, drive blk.Drive) error {
	s, err := seglog.Probe(k.log, drive)
	if err != nil {
		return err
	}
	f, replay, err := openRAM(k.s.conf().Name, s.ChunkBytes, s.Log)
	if err != nil {
		return err
	}
	if _, there := readDevice(k.s.conf().Name); replay == 0 && there && k.s.o.Reattach {
		// Nothing is served: what the device's users read back would be older than what they wrote.
		k.broken = fmt.Errorf("the write cache's memory %s is gone, and with it writes that were acknowledged and not flushed: unmount %s, `robib-ublk stop %s`, add it again and check the file system",
			f.path, k.s.conf().Name, k.s.conf().Name)
	}
	k.ram, o.WriteCache, o.RAM, o.Replay = f, true, f.ring(), replay
	return nil
}

// explain adds the remedy to what keeps a volume from opening.
func (k *stack) explain(err error) error {
	c := k.s.conf()
	switch {
	case errors.Is(err, dcd.ErrChanged):
		return fmt.Errorf("%w: something wrote %s since (a mount, mkfs, LVM?); replaying the log would damage it. If the disk's state now is the one you want, `robib-ublk %s --name %s --accept-disk` replays the log over it all the same", err, c.Disk, verb(c.Role), c.Name)
	default:
		return err
	}
}

func (k *stack) event(e mirror.Event) {
	if e.What == "volume" {
		if err := k.noted(&e); err != nil {
			k.s.o.Logf("%s: a note for the next server: %v", k.s.conf().Name, err)
		}
	}
	if e.What == "session" && k.node.PeerKey() != "" && k.s.conf().PeerKey == "" {
		key := k.node.PeerKey() // of the first session: from here on it is the peer's
		k.net.expect(key)
		k.notes.Go(func() { k.pin(key, false) })
	}
	k.s.changes.say("%s: %s %s→%s reason=%q", k.s.conf().Name, e.What, e.Old, e.New, e.Reason)
}

// paired remembers a machine that has just been given the volume's trust as its peer. Any goroutine.
func (k *stack) paired(key string) { k.pin(key, true) }

// pin remembers which key the peer has, over another one or not.
func (k *stack) pin(key string, over bool) {
	c, err := k.s.rewrite(func(c *Config) error {
		if over || c.PeerKey == "" {
			c.PeerKey = key
		}
		return nil
	})
	if err != nil {
		k.s.o.Logf("%s: the peer's key is not remembered: %v", k.s.conf().Name, err)
		return
	}
	k.s.o.Logf("%s: only the machine with key %s is this volume's peer", c.Name, c.PeerKey)
}

// noted leaves what the next server, and the supervisor, must know.
func (k *stack) noted(e *mirror.Event) error {
	name := k.s.conf().Name
	switch {
	case e.New == mirror.StateRemote:
		return remoteNote.make(name)
	case e.New == mirror.StateFenced:
		return fencedNote.make(name)
	case e.New == "serving":
		return errors.Join(fencedNote.remove(name), k.s.o.In.Served())
	case e.Old == mirror.StateRemote:
		return remoteNote.remove(name)
	}
	return nil
}

// deadFor is for how long the server in whose place this one is, and which served, is dead, in ns; 0: there was
// none, it is not known, or it stood aside for its peer.
func (k *stack) deadFor() int64 {
	died := k.s.o.In.Died
	if !k.s.o.Reattach || died == 0 || remoteNote.there(k.s.conf().Name) {
		return 0
	}
	return max(supervise.Boottime()-died, 1)
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
		if l := k.cache.Log(); k.ram != nil && l.Durable() == l.Sealed() {
			removeRAM(k.ram.path)
		}
	})
	k.loop.Stop()
	k.notes.Wait()
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
	key    *link.Key // this machine's
	using  string    // the address that the newest connection was made to
}

// openNetwork makes the volume's end of the network, and has paired told of the machine that pairs there, and alarm
// of one whose certificate is over; nil when no peer is configured.
func openNetwork(l *uring.Loop, c *Config, paired func(fp string), alarm func(host string, err error)) (*network, error) {
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
		d.Expect(c.PeerKey)
		return &network{dial: d, key: key}, nil
	}
	ln, err := link.NewListener(l, c.Listen, key, trust, c.Plain)
	if err != nil {
		return nil, err
	}
	ln.Expect(c.PeerKey)
	ln.Paired(paired)
	ln.Alarm(alarm)
	return &network{listen: ln, key: key}, nil
}

// expect lets only that machine in, of those that are trusted; "": any. Any goroutine.
func (n *network) expect(key string) {
	if n.dial != nil {
		n.dial.Expect(key)
	} else {
		n.listen.Expect(key)
	}
}

func (n *network) Dial() {
	if n.dial != nil {
		n.dial.Dial()
	}
}

func (n *network) Paths() int {
	if n.dial != nil {
		return n.dial.Paths()
	}
	return n.listen.Paths()
}

func (n *network) DialControl() {
	if n.dial != nil {
		n.dial.DialControl()
	}
}

func (n *network) Next() (mirror.Conn, bool, error) {
	var c *link.Conn
	var control bool
	var err error
	if n.dial != nil {
		c, control, err = n.dial.Next()
	} else {
		c, control, err = n.listen.Next()
	}
	if c == nil {
		return nil, control, err
	}
	if !control {
		n.using = c.Address()
	}
	return c, control, nil
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
	return k.s.conf().Remote
}

func (k *stack) token() (string, error) {
	if k.net == nil || k.net.listen == nil {
		return "", fmt.Errorf("volume %s does not listen: tokens come from the side that serves", k.s.conf().Name)
	}
	return k.net.listen.Token(tokenTTL)
}
