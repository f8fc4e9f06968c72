package volume

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
)

// foundLog is a log that says which disk it belongs to, although no configuration here names it.
type foundLog struct {
	path  string
	super seglog.Super
}

// findLog looks at every local block device, and at the log files in the state directory, for the
// log of a disk: when the state directory is lost, it is the superblocks that still know.
func findLog(disk blk.Info) (*foundLog, error) {
	if disk.Identity == "" {
		return nil, nil // nothing to tell it by
	}
	paths, err := filepath.Glob(filepath.Join(State(), "*.log"))
	if err != nil {
		return nil, err
	}
	devs, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil, err
	}
	for _, d := range devs {
		if !ublkNode(d.Name()) {
			paths = append(paths, "/dev/"+d.Name())
		}
	}
	for _, p := range paths {
		s, err := readSuper(p)
		if err != nil || s.DiskIdentity != disk.Identity || s.DiskBytes > disk.SizeBytes || s.Marks&seglog.Ended != 0 {
			continue // unreadable, not a log, or another disk's
		}
		return &foundLog{p, s}, nil
	}
	return nil, nil
}

// ublkNode reports whether a block device is a ublk device: reading it might wait for its server.
func ublkNode(name string) bool {
	ok, _ := filepath.Match("ublkb*", name)
	return ok
}

// readSuper reads the superblocks of a device or file as they are, without opening it for use.
func readSuper(path string) (seglog.Super, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return seglog.Super{}, err
	}
	defer f.Close()
	b := make([]byte, seglog.SuperBytes)
	if _, err := io.ReadFull(f, b); err != nil {
		return seglog.Super{}, err
	}
	return seglog.DecodeSupers(b)
}

// adopt makes a volume of a disk and its own log again. nil, nil: no log names the disk.
func adopt(q Request, disk *os.File, info blk.Info) (*Prepared, error) {
	if q.Overwrite {
		return nil, nil // the explicit word: what that log holds is given up
	}
	l, err := findLog(info)
	if l == nil || err != nil {
		return nil, err
	}
	s := &l.super
	what := fmt.Sprintf("disk %s belongs to volume %s, whose newest writes may lie in log %s", q.Disk, s.Volume, l.path)
	switch {
	case q.Log == "" || !samePath(q.Log, l.path):
		return nil, fmt.Errorf("%s, although the state directory %s does not know it: `robib-ublk %s --disk %s --log %s …` takes it up again (--overwrite gives up what the log holds)",
			what, State(), verb(q.Role), q.Disk, l.path)
	case q.AssumeClean:
		return nil, q.knownClean(s.Volume.String())
	case q.Role == Primary && q.Remote == "" && s.Marks&seglog.HasPeer != 0:
		return nil, fmt.Errorf("%s, and it has a second copy: name the machine that holds it with --remote", what)
	}
	c, err := q.config(info)
	if err != nil {
		return nil, err
	}
	c.Volume, c.LogID, c.Log, c.LogBytes = s.Volume.String(), s.Log.String(), q.Log, s.RingOffset+s.RingBytes
	if err := q.onlyNew(c); err != nil {
		return nil, err
	}
	p := &Prepared{Config: c, Disk: disk}
	if p.Log, err = filedev.OpenExclusive(c.Log); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	err = p.check()
	if err == nil {
		err = c.Save()
	}
	if err != nil {
		p.Log.Close()
		return nil, err
	}
	p.Notes = append(p.Notes, fmt.Sprintf("volume %s was taken up again from the superblock of its log %s", s.Volume, c.Log))
	return p, nil
}
