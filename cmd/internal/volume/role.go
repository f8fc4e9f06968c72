package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk"
)

// Waits of a planned swap of roles.
const (
	DefaultSwapWait = 30 * time.Second // the primary takes at most so long, unless told otherwise
	MaxSwapWait     = time.Hour
	swapGrace       = 15 * time.Second // the secondary waits longer than the primary may take
	takenWait       = 5 * time.Second  // the old primary waits so long until the new one has what it said
)

// Promoted is what promote has to say.
type Promoted struct {
	Device        string  `json:"device"`
	Planned       bool    `json:"planned"`            // the old primary handed its role over, and lacks nothing
	LSN           uint64  `json:"lsn"`                // the copy is as of this segment
	MissingFrom   uint64  `json:"missing_from_lsn"`   // segments that the old primary is known to have had
	MissingTo     uint64  `json:"missing_to_lsn"`     // 0: none
	MissingBytes  int64   `json:"missing_bytes"`      // of log in them, at most; 0: not known
	SilentSeconds float64 `json:"silent_s"`           // since it was last heard
	MayMiss       bool    `json:"acknowledged_maybe"` // in async and semisync they may have been acknowledged
}

// promote makes this secondary the primary, with the consent of one that is connected unless forced, and
// its block device appear.
func (s *Server) promote(ctx context.Context, a control.Args, progress func(string)) (any, error) {
	if s.ctl == nil { // before the role is taken: a secondary may serve where there can be no block device
		ctl, err := ublk.Open()
		if err != nil {
			return nil, s.noDevice(err)
		}
		s.ctl = ctl
	}
	r, err := s.takeRole(ctx, a, progress)
	if err != nil {
		return nil, err
	}
	if err := s.bringUp(); err != nil {
		return nil, err
	}
	r.Device = s.dev.Path()
	return r, nil
}

// noDevice says why this server cannot have a block device.
func (s *Server) noDevice(err error) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s is served without root, which making its block device needs: `robib-ublk stop %s`, then `robib-ublk serve --name %s` as root, then promote it (%w)", s.conf().Name, s.conf().Name, s.conf().Name, err)
	}
	return err
}

// takeRole makes this side the primary, durably: first the new term, then the configuration.
func (s *Server) takeRole(ctx context.Context, a control.Args, progress func(string)) (r Promoted, err error) {
	k := s.stack
	wait := time.Duration(a.WaitMillis) * time.Millisecond
	if wait <= 0 || wait > MaxSwapWait {
		wait = DefaultSwapWait
	}
	if !a.Force {
		if err := s.awaitSilence(ctx, progress); err != nil {
			return r, err
		}
	}
	var m mirror.Missing
	if e := k.call(func() {
		if r.Planned = k.node.Status().Connected && !a.Force; r.Planned {
			err = k.node.AskRole(int64(wait))
			return
		}
		m = k.node.Missing()
		err = k.node.Claim(a.Force)
	}); e != nil || err != nil {
		return r, errors.Join(e, err)
	}
	if r.Planned {
		if err := s.awaitRole(ctx, wait, progress); err != nil {
			return r, err
		}
	}
	if err := s.await(context.WithoutCancel(ctx), progress, awaited{
		look: func() (bool, error) {
			r.LSN = k.cache.Log().Sealed()
			return k.node.Claimed(), errors.Join(k.node.Err(), k.cache.Log().Err())
		},
		tell: func() string { return "waiting for the log device to take the new term" },
	}); err != nil {
		return r, err
	}
	var mode string
	if err := k.call(func() { mode = k.node.Status().Mode.String() }); err != nil {
		return r, err
	}
	if _, err := s.rewrite(func(c *Config) error {
		c.Role, c.Mode = Primary, mode
		return nil
	}); err != nil {
		name := s.conf().Name
		return r, fmt.Errorf("this side has the role, and cannot note it: %w; mend that, then `robib-ublk stop %s`, serve it, and promote it again", err, name)
	}
	r.MissingFrom, r.MissingTo, r.MissingBytes, r.SilentSeconds, r.MayMiss = m.From, m.To, m.Bytes, float64(m.SilentNanos)/1e9, m.Acknowledged
	return r, k.call(k.node.Begin)
}

// awaitSilence waits while the primary is away that may only be starting again, and would be fenced.
func (s *Server) awaitSilence(ctx context.Context, progress func(string)) error {
	var limit time.Duration
	var st mirror.Status
	k := s.stack
	if err := k.call(func() {
		st = k.node.Status()
		limit = silences * time.Duration(st.PeerDeadNanos)
	}); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.await(wait, progress, awaited{
		look: func() (bool, error) {
			st = k.node.Status()
			return st.Connected || k.node.Restarting() == 0, k.node.MayPromote()
		},
		tell: func() string {
			return "the primary was heard a moment ago and may only be starting again: waiting until it counts as lost (--force does not)"
		},
		stopped: func() error {
			if ctx.Err() != nil {
				return errors.New("interrupted; nothing has changed")
			}
			return fmt.Errorf("the primary is not connected (%s), but was heard again and again: it may only be starting; look there, or say --force, which stops it for good", st.LastError)
		},
	})
}

// silences is how many times as long as the primary may be silent promote waits for that.
const silences = 3

// awaitRole waits for the primary's answer.
func (s *Server) awaitRole(ctx context.Context, wait time.Duration, progress func(string)) error {
	k := s.stack
	ctx, cancel := context.WithTimeout(ctx, wait+swapGrace)
	defer cancel()
	begun := time.Now()
	return s.await(context.WithoutCancel(ctx), progress, awaited{
		look: func() (bool, error) {
			waits, err := k.node.RoleAsked()
			switch {
			case err != nil:
				return false, fmt.Errorf("the primary keeps its role: %w", err)
			case waits && ctx.Err() != nil:
				k.node.WithdrawRole()
				return false, fmt.Errorf("given up after %v without the primary's answer; if `robib-ublk status` there says secondary, it has handed its role over, and `robib-ublk promote %s` again takes it",
					time.Since(begun).Round(time.Second), s.conf().Name)
			}
			return !waits, k.node.Err()
		},
		tell:  func() string { return "the primary is handing its role over" },
		quiet: openWait + time.Second,
	})
}

// asked is told, on the loop, that the peer asks for this primary's role.
func (s *Server) asked(wait int64) {
	limit := min(time.Duration(wait), MaxSwapWait)
	s.o.Logf("%s: the peer asks for the primary's role, within %v", s.conf().Name, limit)
	go s.answer(limit) // it ends with the process, or within the limit and what the driver takes
}

// answer hands this primary's role over, or keeps it and says why.
func (s *Server) answer(limit time.Duration) {
	had, err := false, errors.New("another command is under way there")
	switch {
	case !s.started.Load():
		err = errors.New("its server is only starting")
	case s.commit.TryLock():
		defer s.commit.Unlock()
		had = s.live
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err = s.handOver(ctx)
	}
	if err != nil {
		s.o.Logf("%s: the role is kept: %v", s.conf().Name, err)
		s.keepRole(err, had)
		return
	}
	s.grant()
	if s.socket != nil {
		s.socket.Close()
	}
	s.quit <- supervise.ExitAgain // the next server is the secondary's
}

// handOver takes the device away, demotes this side, and notes that. What it did before an error keepRole
// takes back; without one there is no way back.
func (s *Server) handOver(ctx context.Context) error {
	if err := s.free(); err != nil {
		return err
	}
	if err := s.takeDown(); err != nil {
		return err
	}
	handed := func() (bool, error) {
		if !s.stack.node.Handed() {
			return false, errors.New("the peer that asked is gone")
		}
		return true, nil
	}
	for _, step := range []func() (bool, error){s.stack.node.HandOver, handed} {
		if err := s.await(ctx, func(string) {}, awaited{look: step, tell: func() string { return "" }, stopped: func() error { return errors.New("it takes longer than it may (--timeout)") }}); err != nil {
			return err
		}
	}
	return s.follows()
}

// follows notes that this side is the secondary.
func (s *Server) follows() error {
	_, err := s.rewrite(func(c *Config) error {
		c.Role = Secondary
		return nil
	})
	return err
}

// grant tells the peer, and waits until it has taken the role, or is lost.
func (s *Server) grant() {
	ctx, cancel := context.WithTimeout(context.Background(), takenWait)
	defer cancel()
	told := false
	err := s.await(ctx, func(string) {}, awaited{
		look: func() (bool, error) {
			told = told || s.stack.node.Grant()
			return !s.stack.node.Status().Connected, nil
		},
		tell:    func() string { return "" },
		stopped: func() error { return errors.New("the peer has not answered") },
	})
	if err == nil && !told {
		err = errors.New("the peer is gone")
	}
	if err != nil {
		s.o.Logf("%s: demoted, but %v: if it does not take the role by itself when it is back, `robib-ublk promote` there does it", s.conf().Name, err)
	}
}

// keepRole lets the volume go on as it was, with the device that it had.
func (s *Server) keepRole(why error, had bool) {
	if err := s.stack.call(func() { s.stack.node.KeepRole(why.Error()) }); err != nil || !had || s.live {
		return
	}
	err := errors.New("it could not be taken away either")
	if s.dev == nil {
		err = s.bringUp()
	}
	if err != nil {
		s.o.Logf("%s: the device is not back, another server shall bring it: %v", s.conf().Name, err)
		s.quit <- supervise.ExitAgain
	}
}

// demote takes the device away, brings the peer level, and ends as a secondary, for serve to start.
func (s *Server) demote(ctx context.Context, a control.Args, progress func(string)) error {
	if s.conf().Role != Primary {
		return fmt.Errorf("%s is a secondary already", s.conf().Name)
	}
	if s.conf().Remote == "" && s.conf().Listen == "" {
		return fmt.Errorf("%s has no second machine that could take over", s.conf().Name)
	}
	if err := s.free(); err != nil {
		return err
	}
	var up bool
	if err := s.stack.call(func() { up = s.stack.node.Status().Connected }); err != nil {
		return err
	}
	if !up && !a.Force {
		return fmt.Errorf("the peer is away and may lack what is here: connect it first, or say --force (if it was promoted meanwhile, --force is right)")
	}
	if err := s.takeDown(); err != nil {
		return err
	}
	var lacks uint64
	if !a.Force {
		if err := s.await(ctx, progress, awaited{
			look: func() (level bool, err error) {
				level, lacks = s.stack.node.Level()
				return level, nil
			},
			tell: func() string { return fmt.Sprintf("bringing the peer level: it lacks %d segments", lacks) },
			stopped: func() error {
				return fmt.Errorf("interrupted; the device is gone and the peer lacks %d segments: `robib-ublk demote %s` goes on", lacks, s.conf().Name)
			},
			quiet: time.Second,
		}); err != nil {
			return err
		}
	}
	var ticket uint64
	var err error
	if e := s.stack.call(func() { ticket, err = s.stack.node.Demote() }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	if err := s.await(context.WithoutCancel(ctx), progress, awaited{
		look: func() (bool, error) {
			l := s.stack.cache.Log()
			return l.Updated() >= ticket, l.Err()
		},
		tell:  func() string { return "waiting for the log device to take the demotion" },
		quiet: time.Second,
	}); err != nil {
		return err
	}
	if err := s.follows(); err != nil {
		return err
	}
	s.leave()
	return nil
}
