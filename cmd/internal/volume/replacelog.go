package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
)

// replaceLog gives a volume that lost its log a new one. The new one is made while I/O goes on; then
// I/O waits until everything is on both data disks, the log begins there, and this server ends: the
// next one, under the same block device, begins with it.
func (s *Server) replaceLog(ctx context.Context, a control.Args, progress func(string)) (_ any, err error) {
	k, n := s.stack, *s.conf()
	if n.WriteCache {
		return nil, errors.New("not with --write-cache: its memory belongs to the log that is lost; stop the volume, or promote the peer")
	}
	was := n.Log
	var super seglog.Super
	if e := k.call(func() {
		if err = k.node.LogLost(); err == nil {
			super = *k.cache.Log().Super()
		}
	}); e != nil || err != nil {
		return nil, errors.Join(e, err)
	}
	// Everything that is not said here is worked out for the new device.
	fresh := seglog.Super{Log: newUUID(), Volume: super.Volume, Term: super.Term, DiskBytes: super.DiskBytes, DiskBlock: super.DiskBlock, DiskIdentity: n.DiskID, MaxSegmentBytes: super.MaxSegmentBytes, Incompat: seglog.Zeroes, Marks: seglog.Ended}
	q := Request{Role: Primary, Name: n.Name, Log: a.Log, LogBytes: a.LogBytes, CreateLog: a.CreateLog, Overwrite: a.Overwrite}
	p := &Prepared{Config: &n}
	n.LogOwned = false
	defer p.Close()
	if err := s.notALog(a.Log); err != nil {
		return nil, err
	}
	if err := p.openLog(q); err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("making a log of %s on %s", Bytes(n.LogBytes), n.Log))
	fresh.ChunkBytes, n.LogID = ramChunk(n.RAMBytes, n.LogBytes), fresh.Log.String()
	if err := p.formatLog(q, fresh); err != nil {
		return nil, err
	}
	if err := s.endBefore(ctx, progress, p, fresh); err != nil {
		if n.LogOwned {
			err = errors.Join(err, os.Remove(n.Log))
		}
		return nil, err
	}
	s.o.Logf("%s: the log is %s now, in the place of %s", n.Name, n.Log, was)
	go func() {
		if s.socket != nil {
			s.socket.Close() // the answer goes first
		}
		s.quit <- supervise.ExitAgain
	}()
	return map[string]string{"log": n.Log}, nil
}

// notALog refuses another volume's disk or log.
func (s *Server) notALog(path string) error {
	all, err := Configs()
	if err != nil {
		return err
	}
	for _, c := range all {
		if samePath(c.Disk, path) || samePath(c.Log, path) && c.Name != s.conf().Name {
			return fmt.Errorf("%s belongs to volume %s", path, c.Name)
		}
	}
	return nil
}

// endBefore holds I/O, lets the new log begin where everything is on both data disks, and makes that
// the volume's. When it fails I/O goes on as before.
func (s *Server) endBefore(ctx context.Context, progress func(string), p *Prepared, super seglog.Super) (err error) {
	k := s.stack
	if e := k.call(func() { err = k.node.HoldForLog(true) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.call(func() { k.node.HoldForLog(false) }))
		}
	}()
	var at seglog.Super
	if err := s.await(ctx, progress, awaited{
		look: func() (ok bool, err error) {
			at, ok = k.node.LogPoint()
			return ok, k.node.Err()
		},
		tell:    func() string { return "I/O waits until the peer and the data disk have everything" },
		stopped: func() error { return errors.New("interrupted; the volume goes on without a log") },
	}); err != nil {
		return err
	}
	super.Start, super.Marks, super.Refilled, super.Fingerprint = at.Start, at.Marks, at.Refilled, at.Fingerprint
	super.Incompat |= at.Incompat
	if err := WithDisk(p.Log, func(d blk.Device, drive blk.Drive) error {
		return seglog.Begin(&part{d, p.Config.LogBytes}, super, drive)
	}); err != nil {
		return err
	}
	// From here on it must be gone through with: a peer that forgot must not be relied upon again.
	var st mirror.Status
	if err := s.await(context.WithoutCancel(ctx), progress, awaited{
		look: func() (bool, error) {
			st = k.node.Status()
			return k.node.Forgo(), k.node.Err()
		},
		tell: func() string {
			return "waiting for the peer, which shall note that it is not relied upon any more: " + st.LastError
		},
	}); err != nil {
		return err
	}
	if _, err := s.rewrite(func(c *Config) error {
		c.Log, c.LogID, c.LogBytes, c.LogOwned = p.Config.Log, p.Config.LogID, p.Config.LogBytes, p.Config.LogOwned
		return nil
	}); err != nil {
		return errors.Join(err, k.call(k.node.Remember))
	}
	if super.Marks&seglog.NeedsRefill == 0 {
		return remoteNote.remove(p.Config.Name)
	}
	return nil
}
