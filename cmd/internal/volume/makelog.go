package volume

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
	"github.com/robib-ublk/robib/uring"
)

// WithDisk runs f on a device over file, on a ring of its own: what a command needs of a disk
// when no server runs.
func WithDisk(file *os.File, f func(d blk.Device, drive blk.Drive) error) error {
	return WithDisks([]*os.File{file}, func(d []blk.Device, drive blk.Drive) error { return f(d[0], drive) })
}

// WithDisks is WithDisk for several on one loop.
func WithDisks(files []*os.File, f func(d []blk.Device, drive blk.Drive) error) error {
	done := make(chan error, 1)
	go func() {
		// The loop locks this thread; it ends with the goroutine.
		runtime.LockOSThread()
		done <- withDisks(files, f)
	}()
	return <-done
}

func withDisks(files []*os.File, f func(d []blk.Device, drive blk.Drive) error) error {
	l, err := uring.NewLoop(uring.LoopOptions{})
	if err != nil {
		return err
	}
	var disks []blk.Device
	for _, file := range files {
		d, err := filedev.Open(l, file, filedev.Options{})
		if err != nil {
			return errors.Join(err, l.Close())
		}
		disks = append(disks, d)
	}
	err = f(disks, driveLoop(l))
	for _, d := range disks {
		err = errors.Join(err, d.Close())
	}
	return errors.Join(err, l.Close())
}

// driveLoop makes a blk.Drive of a loop that does not run yet.
func driveLoop(l *uring.Loop) blk.Drive {
	return func() (blk.Instant, error) {
		now, err := l.Once(blk.Never)
		return instant(now), err
	}
}

// instant is the time of a batch; the wall clock is a label only.
func instant(mono int64) blk.Instant { return blk.Instant{Mono: mono, Wall: time.Now().UnixNano()} }

// makeLog finds, creates or formats the log of a new volume and opens it.
func (p *Prepared) makeLog(q Request, disk blk.Info) error {
	c := p.Config
	if err := p.openLog(q); err != nil {
		return err
	}
	super, err := newSuper(c, p.Disk, disk, q.AssumeClean)
	if err == nil {
		err = p.formatLog(q, super)
	}
	if err != nil {
		return err
	}
	c.LogID, c.Volume = super.Log.String(), super.Volume.String()
	return nil
}

// openLog finds or creates what is to be a log, and opens it.
func (p *Prepared) openLog(q Request) error {
	c := p.Config
	c.Log = q.Log
	if c.Log == "" {
		c.Log = DefaultLogPath(c.Name)
	}
	if samePath(c.Log, c.Disk) {
		return Usagef("disk and log are both %s: they must be two", c.Disk)
	}
	st, err := os.Stat(c.Log)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err = createLogFile(c.Log, q.LogBytes); err != nil {
			return err
		}
		c.LogOwned = true
	case err != nil:
		return err
	case st.Mode().IsRegular():
		if err := checkLogDir(filepath.Dir(c.Log)); err != nil {
			return err
		}
	default:
		if err := checkNotOnRobib(c.Log, "the log"); err != nil {
			return err
		}
	}
	if p.Log, err = filedev.OpenExclusive(c.Log); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	info, err := filedev.Describe(p.Log)
	if err != nil {
		return err
	}
	if info.ReadOnly || info.Zoned {
		return fmt.Errorf("log %s is read-only or zoned: it must be written in place", c.Log)
	}
	if q.LogBytes > info.SizeBytes {
		return Usagef("--log-size %d: log %s has %s", q.LogBytes>>20, c.Log, Bytes(info.SizeBytes))
	}
	if c.LogBytes = info.SizeBytes; q.LogBytes > 0 {
		c.LogBytes = q.LogBytes
	}
	return nil
}

// formatLog makes a log of what openLog opened, if that may be overwritten.
func (p *Prepared) formatLog(q Request, super seglog.Super) error {
	c := p.Config
	err := WithDisk(p.Log, func(d blk.Device, drive blk.Drive) error {
		if err := mayFormat(q, c, d, drive); err != nil {
			return err
		}
		return seglog.Create(&part{d, c.LogBytes}, super, drive)
	})
	if err != nil && c.LogOwned {
		os.Remove(c.Log)
	}
	return err
}

// part is the beginning of a device.
type part struct {
	blk.Device
	bytes int64
}

// Info describes the part.
func (p *part) Info() blk.Info {
	i := p.Device.Info()
	i.SizeBytes = p.bytes
	return i
}

// mayFormat refuses to format a log device without the word that what is on it calls for.
func mayFormat(q Request, c *Config, d blk.Device, drive blk.Drive) error {
	if c.LogOwned {
		return nil // made a moment ago
	}
	old, err := seglog.Probe(d, drive)
	var foreign *seglog.ForeignError
	switch {
	case errors.Is(err, seglog.ErrBlank):
		if q.CreateLog || q.Overwrite {
			return nil
		}
		return fmt.Errorf("log %s is blank: --create-log makes a log there", c.Log)
	case q.Overwrite:
		return nil
	case err == nil && old.Marks&seglog.Ended != 0:
		if q.CreateLog {
			return nil
		}
		return fmt.Errorf("log %s served volume %s, which was ended and left nothing in it: --create-log makes a new log there", c.Log, old.Volume)
	case err == nil:
		return fmt.Errorf("log %s belongs to volume %s (disk %q, %s), which is unknown here and may hold writes that its disk lacks: find that disk, or destroy them with --overwrite",
			c.Log, old.Volume, old.DiskIdentity, Bytes(old.DiskBytes))
	case errors.As(err, &foreign):
		return fmt.Errorf("log %s is not a robib-ublk log (%v): name another device, or destroy what is there with --overwrite", c.Log, err)
	}
	return fmt.Errorf("log %s: %w", c.Log, err)
}

// maxRAM bounds the RAM that holds a log's newest bytes.
const maxRAM = 4 << 30

// ramChunk is the RAM ring's size for a wish, 0 where the default is meant.
func ramChunk(wish, log int64) int64 {
	if wish == 0 {
		return 0
	}
	return max(min(wish, maxRAM, log/2), 1<<20) / 4096 * 4096
}

// newSuper describes the log of a new volume. A primary draws the volume's identity; a
// secondary gets it from the primary it first meets.
func newSuper(c *Config, f *os.File, disk blk.Info, clean bool) (seglog.Super, error) {
	s := seglog.Super{Log: newUUID(), DiskBytes: disk.SizeBytes / 4096 * 4096, DiskIdentity: disk.Identity, DiskBlock: disk.LogicalBytes, ChunkBytes: ramChunk(c.RAMBytes, c.LogBytes)}
	if c.Role == Secondary {
		s.Marks = seglog.Inconsistent
		return s, nil
	}
	s.Volume = newUUID()
	s.Term = seglog.Term{Number: 1, ID: randomID()}
	if c.Remote != "" {
		s.Marks = seglog.HasPeer | seglog.PeerNeedsFullSync | seglog.Degraded | seglog.Ahead
		if clean {
			s.Marks ^= seglog.PeerNeedsFullSync | seglog.AssumedClean
		}
	}
	return s, WithDisk(f, func(d blk.Device, drive blk.Drive) (err error) {
		s.Fingerprint, err = dcd.Fingerprint(d, s.DiskBytes, drive)
		return err
	})
}

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:]) | 1
}
