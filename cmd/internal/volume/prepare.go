package volume

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/metrics"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
)

// Request is what a user asked `add` or `serve` for.
type Request struct {
	Role         Role
	Name         string
	Disk, Log    string
	LogBytes     int64
	AcceptLog    bool // an older copy of the log is gone on with
	CreateLog    bool // a blank log device may be formatted
	Overwrite    bool // what is found on log or secondary's disk may be destroyed
	Remote       string
	Listen       string
	Mode         string
	DeviceID     int
	DegradedOK   bool
	OnDisconnect string
	AssumeClean  bool // the peer's disk is taken for equal
	Settings
}

// Settings are what `add` and `serve` take for cache and link; nil or 0: as it is, or the default.
type Settings struct {
	Ordered             *bool
	Latency             *bool
	Plain               *bool // no encryption after the handshake
	WriteCache          *bool // acknowledge from RAM
	RateLimit           *int64
	Compress            *string
	Metrics             *string // [HOST]:PORT, "" for nowhere
	LowWater, HighWater int
	RAMBytes            int64  // of a log that is made
	Queues              int    // hardware queues
	BypassMiB           *int   // as in Config: see ParseBypass
	Heartbeat, PeerDead int64  // ms
	PeerKey             string // that was paired
}

// apply puts what was given into c and reports whether that changed it.
func (s *Settings) apply(c *Config) (changed bool, err error) {
	was := *c
	if s.Latency != nil {
		c.NoLatency = !*s.Latency
	}
	if s.Ordered != nil {
		c.Ordered = *s.Ordered
	}
	if s.Queues > 0 {
		c.Queues = s.Queues
	}
	if s.BypassMiB != nil {
		c.BypassMiB = *s.BypassMiB
	}
	if s.WriteCache != nil {
		c.WriteCache = *s.WriteCache
	}
	if s.Plain != nil {
		c.Plain = *s.Plain
	}
	if s.RateLimit != nil {
		c.RateLimit = *s.RateLimit
	}
	if s.Compress != nil {
		c.Compress = *s.Compress
	}
	if s.Metrics != nil {
		if err := metrics.Check(*s.Metrics); err != nil {
			return false, err // before it is remembered, and anything made
		}
		c.Metrics = *s.Metrics
	}
	if s.Heartbeat > 0 {
		c.Heartbeat = s.Heartbeat
	}
	if s.PeerDead > 0 {
		c.PeerDead = s.PeerDead
	}
	if err := c.checkTiming(); err != nil {
		return false, err
	}
	if s.PeerKey != "" {
		c.PeerKey = s.PeerKey
	}
	if s.LowWater > 0 {
		c.LowWater = s.LowWater
	}
	if s.HighWater > 0 {
		c.HighWater = s.HighWater
	}
	if c.LowWater > 0 || c.HighWater > 0 {
		lo, hi := dcd.Watermarks(c.LowWater, c.HighWater)
		if lo < 1 || lo >= hi || hi > 95 {
			return false, Usagef("watermarks of %d and %d per cent: the low one is at least 1 and below the high one, which is at most 95", lo, hi)
		}
		c.LowWater, c.HighWater = lo, hi
	}
	return was != *c, nil
}

// Prepared is a volume ready to be served: checked, formatted where that was asked for, opened exclusively.
type Prepared struct {
	Config    *Config
	Disk, Log *os.File // nil: lost; the volume starts remote
	New       bool     // just made
	AcceptLog bool     // also an older copy of the log
	Notes     []string // for the user
}

// Close gives the exclusive opens up.
func (p *Prepared) Close() {
	for _, f := range []*os.File{p.Disk, p.Log} {
		if f != nil {
			f.Close()
		}
	}
}

// Prepare checks everything before anything is written, then opens a known volume or makes a new one.
func Prepare(q Request) (*Prepared, error) {
	if q.Name == "" {
		known, err := byDisk(q.Disk)
		if err != nil {
			return nil, err
		}
		if q.Name = DefaultName(q.Disk); known != nil {
			q.Name = known.Name
		}
	}
	if err := CheckName(q.Name); err != nil {
		return nil, err
	}
	c, err := LoadConfig(q.Name)
	if errors.Is(err, ErrUnknown) {
		return prepareNew(q)
	}
	if err != nil {
		return nil, err
	}
	return prepareKnown(c, q)
}

// byDisk finds the volume that a disk path belongs to, if any.
func byDisk(disk string) (*Config, error) {
	all, err := Configs()
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if samePath(c.Disk, disk) {
			return c, nil
		}
	}
	return nil, nil
}

func samePath(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, e1 := filepath.EvalSymlinks(a)
	y, e2 := filepath.EvalSymlinks(b)
	return e1 == nil && e2 == nil && x == y
}

// prepareKnown reopens a volume: what was given must agree with what is remembered.
func prepareKnown(c *Config, q Request) (*Prepared, error) {
	var st Status
	if control.Status(c.Name, &st) == nil {
		at := ""
		if st.Device != "" {
			at = " as " + st.Device
		}
		return nil, fmt.Errorf("volume %s is already running%s (server %d): nothing to do", c.Name, at, st.ServerPID)
	}
	if c.Role != q.Role {
		return nil, fmt.Errorf("volume %s is a %s here, not a %s: `robib-ublk %s` reopens it", c.Name, c.Role, q.Role, verb(c.Role))
	}
	if q.Disk != "" && !samePath(q.Disk, c.Disk) {
		return nil, fmt.Errorf("volume %s has disk %s, not %s: give that one, or another --name for a new volume", c.Name, c.Disk, q.Disk)
	}
	if q.Log != "" && !samePath(q.Log, c.Log) {
		return nil, fmt.Errorf("volume %s has its log on %s (volume %s), and what is not destaged yet lies only there: give that log, not %s", c.Name, c.Log, c.Volume, q.Log)
	}
	if q.AssumeClean {
		return nil, q.knownClean(c.Name)
	}
	if err := q.onlyNew(c); err != nil {
		return nil, err
	}
	p := &Prepared{Config: c, AcceptLog: q.AcceptLog}
	changed, err := q.apply(c)
	if err != nil {
		return nil, err
	}
	for _, o := range []struct {
		given string
		kept  *string
	}{{q.Remote, &c.Remote}, {q.Listen, &c.Listen}, {q.Mode, &c.Mode}, {q.OnDisconnect, &c.OnDisconnect}} {
		if o.given != "" && o.given != *o.kept {
			*o.kept, changed = o.given, true
		}
	}
	if q.DeviceID >= 0 && q.DeviceID != c.DeviceID {
		c.DeviceID, changed = q.DeviceID, true
	}
	if p.Disk, err = openKnown(c.Disk, "disk", c, p); err != nil {
		return nil, err
	}
	if p.Log, err = openKnown(c.Log, "log", c, p); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.check(); err != nil {
		p.Close()
		return nil, err
	}
	if changed {
		if err := c.Save(); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

func verb(r Role) string {
	if r == Secondary {
		return "serve"
	}
	return "add"
}

// openKnown opens a device that must be there. Where the volume has a peer, a missing one is
// not the end: the volume starts remote.
func openKnown(path, what string, c *Config, p *Prepared) (*os.File, error) {
	f, err := filedev.OpenExclusive(path)
	if err == nil {
		return f, nil
	}
	gone := errors.Is(err, fs.ErrNotExist)
	if peer := cmp.Or(c.Remote, c.Listen); gone && c.Role == Primary && peer != "" {
		if c.Remote == "" {
			peer = "the peer that connects to " + peer
		}
		p.Notes = append(p.Notes, fmt.Sprintf("the %s %s is missing: the volume starts remote, served by %s", what, path, peer))
		return nil, nil
	}
	if gone {
		return nil, fmt.Errorf("the %s %s of volume %s is missing: bring it back, or `robib-ublk promote` the other machine", what, path, c.Name)
	}
	return nil, fmt.Errorf("the %s of volume %s: %w", what, c.Name, err)
}

// check compares what is opened with what is remembered.
func (p *Prepared) check() error {
	c := p.Config
	if p.Disk != nil {
		info, err := filedev.Describe(p.Disk)
		if err != nil {
			return err
		}
		if info.SizeBytes < c.DiskBytes {
			return fmt.Errorf("disk %s has %s, but volume %s has %s: this is another disk, or it shrank", c.Disk, Bytes(info.SizeBytes), c.Name, Bytes(c.DiskBytes))
		}
		if info.Identity != c.DiskID {
			return fmt.Errorf("disk %s is %q, but volume %s has %q: another disk under the same name; find the right one", c.Disk, info.Identity, c.Name, c.DiskID)
		}
	}
	if p.Log == nil {
		return nil
	}
	var s seglog.Super
	err := WithDisk(p.Log, func(d blk.Device, drive blk.Drive) (err error) { s, err = seglog.Probe(d, drive); return })
	if err != nil {
		return fmt.Errorf("log %s of volume %s: %w (`robib-ublk log check %s` says more)", c.Log, c.Name, err, c.Log)
	}
	if id := s.Log.String(); id != c.LogID {
		return fmt.Errorf("log %s is log %s of volume %s, but volume %s has log %s: another log under the same name; find the right one", c.Log, id, s.Volume, c.Name, c.LogID)
	}
	if p.AcceptLog {
		return nil
	}
	return checkMark(c.Name, c.Log, logMark{s.Log.String(), s.Seq, s.Declared}, false)
}

// prepareNew makes a volume out of a disk nobody knows.
func prepareNew(q Request) (_ *Prepared, err error) {
	if q.Disk == "" {
		return nil, fmt.Errorf("no volume %s here, and no --disk to make it from", q.Name)
	}
	p := &Prepared{New: true}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.Disk, err = filedev.OpenExclusive(q.Disk); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	info, err := filedev.Describe(p.Disk)
	if err != nil {
		return nil, err
	}
	if err = usable(q, info); err != nil {
		return nil, err
	}
	if known, err := adopt(q, p.Disk, info); known != nil || err != nil {
		return known, err
	}
	if err = checkContent(q, p.Disk, info); err != nil {
		return nil, err
	}
	c, err := q.config(info)
	if err != nil {
		return nil, err
	}
	c.RAMBytes, c.FirstAlone = q.RAMBytes, q.DegradedOK
	p.Config = c
	if err = p.makeLog(q, info); err != nil {
		return nil, err
	}
	if err = c.Save(); err != nil {
		return nil, err
	}
	if q.AssumeClean {
		p.Notes = append(p.Notes, fmt.Sprintf("--assume-clean: %s takes it on your word that its disk holds the same bytes as %s now; nothing is copied or compared, and where they differ, the copy is wrong without anybody noticing",
			q.Remote, q.Disk))
	}
	return p, nil
}

// knownClean refuses to take disks for equal of which a log knows what one of them lacks.
func (q *Request) knownClean(volume string) error {
	return fmt.Errorf("volume %s is known, and what its copy lacks is known, too: leave --assume-clean out (it is for a new volume only)", volume)
}

// onlyNew refuses what can be chosen only when a volume is made, and would be ignored: what c has already may be said again.
func (q *Request) onlyNew(c *Config) error {
	for _, f := range []struct {
		given    bool
		flag, is string
	}{
		{q.CreateLog, "--create-log", "it has log " + c.Log},
		{q.LogBytes > 0 && q.LogBytes != c.LogBytes, "--log-size", fmt.Sprintf("its log has %s; `robib-ublk replace-log` or a new volume gives another", Bytes(c.LogBytes))},
		{q.RAMBytes > 0 && q.RAMBytes != c.RAMBytes, "--ram", "it was chosen when the log was made"},
		{q.DegradedOK, "--degraded-ok", "--start-alone serves without asking the peer"},
	} {
		if f.given {
			return Usagef("volume %s is known, and %s is for a new one: leave it out (%s)", c.Name, f.flag, f.is)
		}
	}
	return nil
}

// config is that of a volume on a disk that no configuration names yet.
func (q *Request) config(disk blk.Info) (*Config, error) {
	c := &Config{Name: q.Name, Role: q.Role, Disk: q.Disk, DiskID: disk.Identity, DiskBytes: disk.SizeBytes, DiskBlock: int(disk.LogicalBytes),
		Remote: q.Remote, Listen: q.Listen, Mode: q.Mode, DeviceID: q.DeviceID, OnDisconnect: q.OnDisconnect}
	if c.Mode == "" {
		c.Mode = "sync"
	}
	_, err := q.apply(c)
	return c, err
}

// usable refuses a disk that cannot be a new volume's.
func usable(q Request, info blk.Info) error {
	switch {
	case info.ReadOnly:
		return fmt.Errorf("disk %s is read-only: a volume must be able to write it", q.Disk)
	case info.Zoned:
		return fmt.Errorf("disk %s is zoned (SMR): blocks cannot be written in place there", q.Disk)
	case info.SizeBytes == 0:
		return fmt.Errorf("disk %s is empty (0 bytes)", q.Disk)
	}
	if err := checkNotOnRobib(q.Disk, "the volume"); err != nil {
		return err
	}
	all, err := Configs()
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.Name != q.Name && (samePath(c.Disk, q.Disk) || c.DiskID != "" && c.DiskID == info.Identity) {
			return otherLog(c, q)
		}
		if samePath(c.Log, q.Disk) {
			return fmt.Errorf("%s is the log of volume %s (disk %s), not a disk to use", q.Disk, c.Name, c.Disk)
		}
	}
	return nil
}

// checkContent refuses a disk whose content would be destroyed unasked.
func checkContent(q Request, f *os.File, info blk.Info) error {
	what, found, err := filedev.Signature(f, info.SizeBytes)
	if err != nil {
		return fmt.Errorf("disk %s: %w", q.Disk, err)
	}
	if found && what == filedev.RobibLog && !q.Overwrite {
		return fmt.Errorf("%s holds a robib-ublk log, not a volume's data: `robib-ublk log check %s` says whose (--overwrite destroys it)", q.Disk, q.Disk)
	}
	if q.Role == Primary || q.Overwrite {
		return nil // a primary's disk keeps what is on it: that is the point
	}
	if found {
		return fmt.Errorf("disk %s holds %s, which the primary's copy would replace: name another disk, or say --overwrite", q.Disk, what)
	}
	where, err := filedev.NonZero(f, info.SizeBytes)
	if err != nil {
		return fmt.Errorf("disk %s: %w", q.Disk, err)
	}
	if where != "" {
		return fmt.Errorf("disk %s is not blank (its %s is not all zeros), and the primary's copy would replace it: name another disk, or say --overwrite", q.Disk, where)
	}
	return nil
}

// otherLog refuses a disk whose writes may lie in another log, and says which, how much and what to do.
func otherLog(c *Config, q Request) error {
	lies := "its log could not be read"
	if f, err := os.Open(c.Log); err == nil {
		defer f.Close()
		err = WithDisk(f, func(d blk.Device, drive blk.Drive) error {
			sum, err := seglog.Check(d, drive, func(seglog.Finding) {})
			if err == nil {
				lies = fmt.Sprintf("%s of it are not destaged yet", Bytes(sum.DirtyBytes))
			}
			return err
		})
		if err != nil {
			lies += ": " + err.Error()
		}
	}
	return fmt.Errorf("disk %s belongs to volume %s with log %s, and %s: `robib-ublk %s --name %s` reopens it (`robib-ublk del %s` ends it)",
		q.Disk, c.Name, c.Log, lies, verb(c.Role), c.Name, c.Name)
}

// newUUID draws a version 4 UUID (RFC 9562).
func newUUID() (u seglog.UUID) {
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u
}
