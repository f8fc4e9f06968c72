package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk"
	"github.com/robib-ublk/robib/uring"
)

// firstPeerWait is how long the first add waits for its peer before it gives up.
const firstPeerWait = 10 * time.Second

// poll is how often slow waits look again; nothing on an I/O path does.
const poll = 20 * time.Millisecond

// ServerOptions say what one server process serves.
type ServerOptions struct {
	Config     *Config
	In         supervise.Inherited
	Reattach   bool // a dead server's device is to be taken over
	New        bool // the volume was made a moment ago
	StartAlone bool
	AcceptDisk bool
	AcceptLog  bool
	Discard    bool // what only this secondary has is given up
	Notes      []string
	Logf       func(format string, args ...any)
}

// Server is the process that serves one volume: a loop that owns the stack, and goroutines that
// talk to the driver and to the control socket.
type Server struct {
	o       ServerOptions
	config  atomic.Pointer[Config] // see conf and rewrite
	writing sync.Mutex             // of config
	deleted bool                   // there is none any more; guarded by writing
	stack   *stack
	ctl     *ublk.Control
	dev     *ublk.Device
	live    bool
	started atomic.Bool // start is over: from here on it is commands that change things
	begun   time.Time
	ended   chan struct{} // the loop has ended, with loopErr
	quit    chan int      // exit code asked for
	loopErr error
	commit  sync.Mutex // one command that changes things at a time
	socket  *control.Server
	tracing tracing
	commits often
	changes *changes
	exports exporting
	marking sync.Mutex
	marked  *logMark // what is remembered of the log
}

func newServer(o ServerOptions) *Server {
	s := &Server{o: o, begun: time.Now(), ended: make(chan struct{}), quit: make(chan int, 1), changes: newChanges(o.Logf)}
	s.config.Store(o.Config)
	return s
}

// conf is the configuration in force, which nobody may write to. Any goroutine.
func (s *Server) conf() *Config { return s.config.Load() }

// rewrite changes a copy of the configuration, which is remembered first and then in force. Any goroutine.
func (s *Server) rewrite(change func(c *Config) error) (*Config, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.deleted {
		return nil, ErrUnknown
	}
	was := s.conf()
	n := *was
	if err := change(&n); err != nil {
		return nil, err
	}
	if err := n.Save(); err != nil {
		return nil, errors.Join(err, was.Save()) // whichever of them the disk has
	}
	s.config.Store(&n)
	return &n, nil
}

// forget removes what is remembered.
func (s *Server) forget() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.conf().Forget()
	s.deleted = err == nil
	return err
}

// Run serves until the volume is stopped or deleted; it returns the process's exit code.
func Run(o ServerOptions) int {
	s := newServer(o)
	err := s.start()
	defer s.changes.flush()
	if err != nil {
		o.Logf("%s: %v", s.conf().Name, err)
		supervise.Report{Error: err.Error(), Exit: 1}.Send(o.In.Ready)
		s.shutdown()
		return supervise.ExitRefused
	}
	s.started.Store(true)
	s.markLog()
	go s.keepMarking()
	defer s.markLog()
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM, os.Interrupt)
	for {
		select {
		case code := <-s.quit:
			return code
		case <-sig:
			if _, err := s.Do(context.Background(), "stop", control.Args{}, func(string) {}); err != nil {
				o.Logf("%s: asked to stop, but %v", s.conf().Name, err)
			}
		case <-s.ended:
			select {
			case code := <-s.quit: // it ended because it was asked to
				return code
			case <-time.After(time.Minute):
			}
			o.Logf("%s: the loop ended: %v", s.conf().Name, s.loopErr)
			return 1
		}
	}
}

func (s *Server) start() error {
	c := s.conf()
	opened := make(chan error, 1)
	s.stack = &stack{s: s}
	go s.stack.run(opened)
	if err := <-opened; err != nil {
		return err
	}
	var err error
	if s.socket, err = control.Listen(c.Name, s); err != nil {
		return err
	}
	if err := s.openMetrics(); err != nil {
		return err
	}
	report := supervise.Report{Lines: append(s.describeLog(), s.o.Notes...)}
	if c.Role == Primary {
		if err := s.bringUp(); err != nil {
			return err
		}
		report.Device = s.dev.Path()
		report.Lines = append(report.Lines, s.describeReplication())
	} else {
		if c.Listen == "" {
			report.Lines = append(report.Lines, "following the primary at "+c.Remote)
			return report.Send(s.o.In.Ready)
		}
		report.Lines = append(report.Lines, "listening for the primary on "+s.stack.address())
		if s.o.In.Ready != nil { // else nobody would read it
			lines, err := s.invitation()
			if err != nil {
				return err
			}
			report.Lines = append(report.Lines, lines...)
		}
	}
	return report.Send(s.o.In.Ready)
}

// invitation is what the user of the primary needs to pair, where this volume has no peer yet.
func (s *Server) invitation() ([]string, error) {
	if s.conf().PeerKey != "" {
		return nil, nil
	}
	token, err := s.stack.token()
	if err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("pairing token, good once, for %v; on the primary say:", tokenTTL),
		"  robib-ublk add --disk DISK --remote " + s.stack.address() + " --pair " + token}, nil
}

// bringUp waits until the node may serve, then makes the block device appear.
func (s *Server) bringUp() error {
	if s.ctl == nil {
		ctl, err := ublk.Open()
		if err != nil {
			return err
		}
		s.ctl = ctl
	}
	id, old := readDevice(s.conf().Name)
	if s.o.Reattach && old {
		if err := s.takeOver(id); err == nil {
			return nil
		} else if !errors.Is(err, errNoDevice) {
			return err
		}
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	var err error
	if s.dev, err = s.ctl.Add(ublk.AddOptions{ID: s.conf().DeviceID, MaxIOBytes: s.stack.maxIO(), Queues: s.conf().Queues}); err != nil {
		return err
	}
	if err := writeDevice(s.conf().Name, s.dev.ID()); err != nil {
		return errors.Join(err, s.dev.Del())
	}
	if err = s.attach(false); err == nil {
		err = s.dev.Start()
	}
	if err != nil {
		return errors.Join(err, s.takeDown())
	}
	s.live, s.o.New = true, false
	s.trace(s.dev)
	return nil
}

var errNoDevice = errors.New("the device is gone")

// takeOver puts this server in a dead one's place: the device stays, its I/O goes on.
func (s *Server) takeOver(id int) error {
	dev, err := s.ctl.Find(id)
	if errors.Is(err, syscall.ENODEV) {
		return errNoDevice // after a reboot, say
	}
	if err != nil {
		return err
	}
	s.dev = dev
	err = dev.StartRecovery()
	if errors.Is(err, ublk.ErrStopped) { // the dead server was about to delete it, or had only made it
		if err := dev.Del(); err != nil {
			return err
		}
		s.dev = nil
		return errNoDevice
	}
	if err != nil {
		return err
	}
	if err := s.attach(true); err != nil {
		return err
	}
	if err := dev.EndRecovery(); err != nil {
		return err
	}
	s.live = true
	s.trace(s.dev)
	s.o.Logf("%s: %s goes on after %v", s.conf().Name, dev.Path(), time.Since(s.begun).Round(time.Millisecond))
	return nil
}

// attach puts the queue under the device, on the loop's thread. One that was there keeps its parameters.
func (s *Server) attach(was bool) error {
	var err error
	if e := s.stack.call(func() {
		if err = s.dev.SetParams(s.stack.node.Device().Info()); err != nil && !was {
			return
		}
		err = nil
		s.stack.queue, err = ublk.NewQueues(s.stack.loop, s.dev, s.stack.node.Device())
		if err == nil {
			s.stack.tagsBack = make(chan struct{})
			s.stack.queue.Ended = func() { close(s.stack.tagsBack) }
		}
	}); e != nil {
		return e
	}
	return err
}

// waitReady waits until the node may serve. The first add gives its peer ten seconds.
func (s *Server) waitReady() error {
	limit := time.Duration(1<<63 - 1)
	if s.o.New && s.conf().Remote != "" && !s.conf().FirstAlone {
		limit = firstPeerWait
	}
	said := false
	for begun := time.Now(); ; time.Sleep(poll) {
		var ready, up bool
		var st mirror.Status
		var failed error
		if err := s.stack.call(func() {
			ready, failed, st = s.stack.node.Ready(), s.stack.node.Err(), s.stack.node.Status()
			up = st.Connected
		}); err != nil {
			return err
		}
		switch {
		case failed != nil:
			return failed
		case st.State == mirror.StateDiverged || st.State == mirror.StateFenced:
			return fmt.Errorf("volume %s is %s: %s", s.conf().Name, st.State, st.Reason)
		case ready && (up || limit > firstPeerWait || s.conf().Remote == ""):
			return nil
		case time.Since(begun) > limit:
			return fmt.Errorf("the peer %s cannot be reached (%s): start `robib-ublk serve` there, or say --degraded-ok to begin without it", s.conf().Remote, st.LastError)
		case !said && time.Since(begun) > time.Second && limit > firstPeerWait:
			said = true
			s.o.Logf("%s: %s: %s (add --start-alone serves without asking the peer)", s.conf().Name, st.State, st.LastError)
		}
	}
}

// takeDown removes the block device; requests under way are answered first.
func (s *Server) takeDown() error {
	if s.dev == nil {
		return nil
	}
	if s.live {
		if err := s.dev.Stop(); err != nil {
			return err
		}
		<-s.stack.tagsBack
		s.live = false
	}
	err := s.untrace()
	if e := s.stack.call(func() {
		if q := s.stack.queue; q != nil {
			s.stack.queue = nil
			err = errors.Join(err, q.Close())
		}
	}); e != nil {
		return e
	}
	err = errors.Join(err, s.dev.Del(), removeDevice(s.conf().Name), remoteNote.remove(s.conf().Name))
	s.dev = nil
	return err
}

// shutdown ends everything that runs; the device is gone already, or was never there.
func (s *Server) shutdown() {
	if s.socket != nil {
		s.socket.Close()
	}
	if err := s.exports.close(); err != nil {
		s.o.Logf("%s: metrics: %v", s.conf().Name, err)
	}
	if s.stack != nil && s.stack.loop != nil {
		s.stack.stop()
		<-s.ended
	}
	if s.ctl != nil {
		s.ctl.Close()
	}
}

// loopOptions of a volume's ring.
func loopOptions() uring.LoopOptions {
	return uring.LoopOptions{Options: uring.Options{Entries: 1024}}
}
