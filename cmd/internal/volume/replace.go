package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
)

// replaceDisk puts another disk, or the same one anew, in the data disk's place, and has it filled
// from the peer. What can be refused is refused before anything changes.
func (s *Server) replaceDisk(ctx context.Context, a control.Args, progress func(string)) (any, error) {
	k, was := s.stack, s.conf()
	f, info, err := s.openNewDisk(a)
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		if !done && f != s.o.In.Disk {
			f.Close()
		}
	}()
	if err := s.standIn(ctx, progress); err != nil {
		return nil, err
	}
	// From here on the log says durably that the old disk is not good: whatever comes, it never serves again.
	var size int64
	if err := k.call(func() { size = k.cache.Info().SizeBytes }); err != nil {
		return nil, err
	}
	has := func(path, id string, size int64) (*Config, error) {
		return s.rewrite(func(c *Config) error {
			c.Disk, c.DiskID, c.DiskBytes = path, id, size
			return nil
		})
	}
	n, err := has(a.Disk, info.Identity, size)
	if err != nil {
		return nil, err
	}
	if e := k.call(func() { err = k.swapDisk(f) }); e != nil || err != nil {
		_, back := has(was.Disk, was.DiskID, was.DiskBytes)
		return nil, errors.Join(e, err, back)
	}
	done = true
	s.o.Logf("%s: the data disk is %s now, in the place of %s", n.Name, n.Disk, was.Disk)
	var st mirror.Status
	if err := s.await(ctx, progress, awaited{
		look: func() (bool, error) {
			if st = k.node.Status(); st.RefillTotal == 0 && st.State == mirror.StateRemote {
				return false, fmt.Errorf("the new disk was not filled: %w", errors.Join(k.cache.Lost()))
			}
			return st.RefillTotal == 0 && st.State != mirror.StateRemote, k.node.Err()
		},
		tell: func() string {
			return fmt.Sprintf("filling %s from the peer: %s of %s", n.Disk, Bytes(st.RefillDone), Bytes(st.RefillTotal))
		},
		stopped: func() error {
			return fmt.Errorf("interrupted; %s goes on being filled, `robib-ublk status %s` shows how far it is", n.Disk, n.Name)
		},
	}); err != nil {
		return nil, err
	}
	return map[string]string{"disk": n.Disk, "state": st.State}, nil
}

// openNewDisk opens what shall take the data disk's place, after the checks that add makes of a new
// volume's disk. The volume's own disk, named again, may hold what it holds.
func (s *Server) openNewDisk(a control.Args) (*os.File, blk.Info, error) {
	c := s.conf()
	if samePath(a.Disk, c.Disk) && s.stack.disk != nil {
		return s.o.In.Disk, s.stack.disk.Info(), nil
	}
	f, err := filedev.OpenExclusive(a.Disk)
	if err != nil {
		return nil, blk.Info{}, fmt.Errorf("disk: %w", err)
	}
	info, err := s.checkNewDisk(a, f)
	if err != nil {
		return nil, blk.Info{}, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func (s *Server) checkNewDisk(a control.Args, f *os.File) (blk.Info, error) {
	c := s.conf()
	info, err := filedev.Describe(f)
	if err != nil {
		return info, err
	}
	q := Request{Name: c.Name, Role: Secondary, Disk: a.Disk, Overwrite: a.Overwrite} // its content goes, as a secondary's does
	if err := usable(q, info); err != nil {
		return info, err
	}
	var size int64
	var block int32
	if err := s.stack.call(func() {
		i := s.stack.cache.Info()
		size, block = i.SizeBytes, i.LogicalBytes
	}); err != nil {
		return info, err
	}
	switch own := c.DiskID != "" && info.Identity == c.DiskID; {
	case info.SizeBytes < size:
		return info, fmt.Errorf("disk %s has %s, and volume %s %s: name a disk that is no smaller", a.Disk, Bytes(info.SizeBytes), c.Name, Bytes(size))
	case info.LogicalBytes > block:
		return info, fmt.Errorf("disk %s has blocks of %d bytes, and volume %s of %d: name a disk whose are no larger", a.Disk, info.LogicalBytes, c.Name, block)
	case own:
		return info, nil
	}
	return info, checkContent(q, f, info)
}

// standIn waits until the peer stands in for the data disk, and nothing is on its way there any more.
func (s *Server) standIn(ctx context.Context, progress func(string)) error {
	k := s.stack
	var err error
	if e := k.call(func() { err = k.node.Replace() }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	var st mirror.Status
	err = s.await(ctx, progress, awaited{
		look: func() (bool, error) {
			st = k.node.Status()
			return k.node.Replaceable(), k.node.Err()
		},
		tell: func() string {
			if st.State == mirror.StateRemote {
				return "the peer stands in; waiting until what is on its way to the old disk has ended"
			}
			return fmt.Sprintf("asking the peer to stand in (%s)", st.State)
		},
		stopped: func() error {
			if st.State == mirror.StateRemote {
				return fmt.Errorf("interrupted; the peer stands in for %s: `robib-ublk replace-disk %s --disk …` goes on", s.conf().Disk, s.conf().Name)
			}
			return errors.New("interrupted; nothing has changed")
		},
	})
	if err != nil {
		k.call(func() { k.node.KeepDisk() })
	}
	return err
}

// swapDisk makes f the data disk, to be filled; on the loop's thread.
func (k *stack) swapDisk(f *os.File) error {
	if f == k.s.o.In.Disk {
		return k.node.Refill(k.disk)
	}
	d, err := filedev.Open(k.loop, f, filedev.Options{})
	if err != nil {
		return err
	}
	if err := k.node.Refill(d); err != nil {
		return errors.Join(err, d.Close())
	}
	old, file := k.disk, k.s.o.In.Disk
	k.disk, k.s.o.In.Disk = d, f
	if old == nil {
		return nil
	}
	if err := errors.Join(old.Close(), file.Close()); err != nil {
		k.s.o.Logf("%s: let go of the old disk: %v", k.s.conf().Name, err)
	}
	return nil
}

// Reopen gives what a volume's next server gets in the place of disk and log, which were opened as c
// says: what another server of the volume has replaced is closed, and the new one opened and checked.
// nil: it cannot be had. It returns the configuration that now holds.
func Reopen(c *Config, disk, log *os.File, logf func(format string, args ...any)) (*Config, *os.File, *os.File) {
	n, err := LoadConfig(c.Name)
	if err != nil {
		return c, disk, log
	}
	p := &Prepared{Config: n}
	one := func(what, was, is string, f *os.File, mine **os.File) *os.File {
		if samePath(was, is) && (f != nil || what == "log") { // a disk that had failed may have been filled anew since
			return f
		}
		if f != nil {
			f.Close()
		}
		if *mine, err = filedev.OpenExclusive(is); err == nil {
			err = p.check()
		}
		if err != nil {
			if !samePath(was, is) {
				logf("%s: its server replaced the %s, and the new one cannot be had: %v", n.Name, what, err)
			}
			p.Close()
			*mine = nil
		}
		f = *mine
		*mine = nil
		return f
	}
	return n, one("disk", c.Disk, n.Disk, disk, &p.Disk), one("log", c.Log, n.Log, log, &p.Log)
}

// GiveUpAfter is how long a dead server's last I/O may keep a disk of a volume from the next one before the disk counts
// as failed; 0: for ever, where no peer could stand in.
func GiveUpAfter(name string) time.Duration {
	c, err := LoadConfig(name)
	if err != nil || c.Role != Primary || c.Remote == "" && c.Listen == "" {
		return 0
	}
	return cmp.Or(time.Duration(c.DiskDeadline)*time.Millisecond, dcd.DefaultDiskNanos)
}
