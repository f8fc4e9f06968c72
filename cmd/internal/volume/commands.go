package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/latency"
	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
)

// Do carries out a command of the control socket, one at a time but for what only looks.
func (s *Server) Do(ctx context.Context, command string, a control.Args, progress func(string)) (any, error) {
	if command == latency.Command {
		return s.latency(a.Set)
	}
	if !s.commit.TryLock() {
		return nil, errors.New("another command is under way")
	}
	defer s.commit.Unlock()
	switch command {
	case "stop":
		return nil, s.stopVolume()
	case "del":
		return nil, s.deleteVolume(ctx, a, progress)
	case "promote":
		return s.promote(ctx, a, progress)
	case "demote":
		return nil, s.demote(ctx, a, progress)
	case "set":
		return s.set(a.Set)
	case "replace-disk":
		return s.replaceDisk(ctx, a, progress)
	case "replace-log":
		return s.replaceLog(ctx, a, progress)
	case "start-alone":
		return nil, s.startAlone()
	case "destage":
		return s.destage(ctx, progress)
	case "pair":
		t, err := s.stack.token()
		return map[string]string{"token": t, "address": s.stack.address()}, err
	}
	return nil, fmt.Errorf("unknown command %q", command)
}

// free refuses while the block device is in use.
func (s *Server) free() error {
	if !s.live {
		return nil
	}
	by, err := Held(s.dev.Path())
	if err == nil && by != "" {
		err = fmt.Errorf("%s: unmount or release it first", by)
	}
	return err
}

// stopVolume takes the device away and ends the server; log and configuration stay.
func (s *Server) stopVolume() error {
	if err := s.free(); err != nil {
		return err
	}
	if err := s.takeDown(); err != nil {
		return err
	}
	s.leave()
	return nil
}

// startAlone lets a primary that waits for its peer serve without asking it.
func (s *Server) startAlone() error {
	var err error
	if e := s.stack.call(func() { err = s.stack.node.StartAlone() }); e != nil {
		return e
	}
	return err
}

// leave ends the process once the answer to the command is on its way.
func (s *Server) leave() {
	go func() {
		s.shutdown()
		s.quit <- supervise.ExitStopped
	}()
}

// deleteVolume ends the volume: device away, peer level, everything destaged, chain ended, forgotten.
func (s *Server) deleteVolume(ctx context.Context, a control.Args, progress func(string)) error {
	if err := s.free(); err != nil {
		return err
	}
	var err error
	if e := s.stack.call(func() { err = s.stack.node.Drain(a.Force) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	if err := s.takeDown(); err != nil {
		return err
	}
	var left int64
	var peer mirror.Status
	if err := s.await(ctx, progress, awaited{
		look: func() (done bool, err error) {
			done, left = s.stack.node.Drained()
			peer = s.stack.node.Status()
			data, log := s.stack.cache.Lost()
			return done, cannotEmpty(data, log, s.stack.node.Err())
		},
		tell: func() string { return draining(s.conf(), left, peer) },
		stopped: func() error {
			return fmt.Errorf("interrupted; the device is gone, %s are still in the log: `robib-ublk del %s` goes on", Bytes(left), s.conf().Name)
		},
	}); err != nil {
		return err
	}
	if err := s.forget(); err != nil {
		return err
	}
	if s.conf().LogOwned {
		if err := os.Remove(s.conf().Log); err != nil {
			return err
		}
	}
	s.leave()
	return nil
}

// draining says what del waits for, with left bytes in the log.
func draining(c *Config, left int64, peer mirror.Status) string {
	switch {
	case left > 0:
		return fmt.Sprintf("emptying the log into %s: at most %s left", c.Disk, Bytes(left))
	case peer.State == mirror.StateAlone || peer.Connected:
		return "the log is empty; its end is being written"
	}
	return fmt.Sprintf("the log is empty; waiting for the peer to come back and get level (%s); ^C and `robib-ublk del --force %s` ends without it", peer.LastError, c.Name)
}

// cannotEmpty is what keeps a log from being emptied, nil when nothing does.
func cannotEmpty(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the log cannot be emptied into the disk: %w (replace what failed, or, to give up what only the log has, `robib-ublk stop` it and then `robib-ublk del --force`)", err)
	}
	return nil
}

// destage empties the log of what was written before the command came, and says what it wrote.
func (s *Server) destage(ctx context.Context, progress func(string)) (any, error) {
	k := s.stack
	var target seglog.LSN
	var before, now dcd.Status
	if err := k.call(func() {
		target, before = k.cache.Log().Sealed(), k.cache.Status()
		k.cache.DestageAll(true)
	}); err != nil {
		return nil, err
	}
	defer k.call(func() { k.cache.DestageAll(false) })
	if err := s.await(ctx, progress, awaited{
		look: func() (done bool, err error) {
			now = k.cache.Status()
			return now.Destaged >= target, cannotEmpty(k.cache.Lost())
		},
		tell: func() string {
			return fmt.Sprintf("destaged up to LSN %d of %d, %s of log in use", now.Destaged, target, Bytes(now.LogUsed))
		},
		stopped: func() error {
			return fmt.Errorf("interrupted: destaged up to LSN %d of %d; destage goes on as the settings say", now.Destaged, target)
		},
		quiet: time.Second,
	}); err != nil {
		return nil, err
	}
	return map[string]uint64{"destaged_lsn": now.Destaged, "written_bytes": now.DestagedBytes - before.DestagedBytes}, nil
}
