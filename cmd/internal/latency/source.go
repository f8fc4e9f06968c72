package latency

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/control"
)

// Source gives a device's snapshots. Any goroutine.
type Source interface {
	Take() (*Snapshot, error)
	// SetThreshold chooses outliers: requests of at least t, at most rate a second; t 0 ends that.
	SetThreshold(t time.Duration, rate int) error
	Close() error
}

// keep is how many outliers a Tracer remembers.
const keep = 512

// Tracer is one block device under probes of this process.
type Tracer struct {
	path   string
	probes *bpf.Probes
	dev    *bpf.Device
	since  int64

	mu   sync.Mutex
	slow told
}

// told remembers the newest outliers.
type told struct {
	list []Request
	seq  uint64
}

// add takes new ones, complete at now, and gives all that are remembered.
func (t *told) add(list []bpf.Request, now int64) []Request {
	for i := range list {
		q := tell(&list[i], now)
		t.seq++
		q.Seq = t.seq
		t.list = append(t.list, q)
	}
	if n := len(t.list) - keep; n > 0 {
		t.list = append([]Request(nil), t.list[n:]...)
	}
	return append([]Request{}, t.list...)
}

// ErrNoDevice says that a path is nothing that can be traced.
var ErrNoDevice = errors.New("cannot be traced")

// Open attaches probes to the whole disk at path. queues and depth are its server's, which is to
// write into Slots; 0 where there is none. ring and cost are those of bpf.Options.
func Open(path string, queues, depth int, o bpf.Options) (*Tracer, error) {
	rdev, err := disk(path)
	if err != nil {
		return nil, err
	}
	o.Devices, o.Slots = 1, queues*depth
	p, err := bpf.Open(o)
	if err != nil {
		return nil, &NotAttachedError{err}
	}
	d, err := p.AddDevice(rdev, queues, depth)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &Tracer{path: path, probes: p, dev: d, since: mono()}, nil
}

// disk finds a path's device number; it must be a whole disk with a request queue.
func disk(path string) (rdev uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, fmt.Errorf("%s is no block device: it %w", path, ErrNoDevice)
	}
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if _, err := os.Stat(sys + "/partition"); err == nil {
		whole, _ := filepath.EvalSymlinks(sys)
		return 0, fmt.Errorf("%s is a partition and %w: name the disk, /dev/%s", path, ErrNoDevice, filepath.Base(filepath.Dir(whole)))
	}
	if _, err := os.Stat(sys + "/mq"); err != nil {
		return 0, fmt.Errorf("%s has no request queue (device mapper, md?) and %w: name the disk below it", path, ErrNoDevice)
	}
	return st.Rdev, nil
}

func mono() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// Device is the traced one, for its server's slots and sources.
func (t *Tracer) Device() *bpf.Device { return t.dev }

// Probes tells which of p are attached, and what they cost.
func Probes(p *bpf.Probes) []Probe { return list(p.Programs()) }

func list(programs []bpf.Program) []Probe {
	var list []Probe
	for _, r := range programs {
		q := Probe{Tracepoint: r.Tracepoint, Gives: r.Gives, Attached: r.Attached, Why: r.Why, Runs: r.Runs, Nanos: r.Nanos, Missed: r.Missed}
		if r.Runs > 0 {
			q.PerRun = float64(r.Nanos) / float64(r.Runs)
		}
		list = append(list, q)
	}
	return list
}

// Take reads everything.
func (t *Tracer) Take() (*Snapshot, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := mono()
	c, err := t.dev.Snapshot()
	if err != nil {
		return nil, err
	}
	s := &Snapshot{Device: t.path, AtNanos: now, Since: t.since, Hists: pack(c), Counts: c.Stats, counted: c, Probes: Probes(t.probes), Inflight: []Request{}}
	slow, err := t.probes.Outliers()
	if err != nil {
		return nil, err
	}
	s.Outliers = t.slow.add(slow, now)
	list, err := t.probes.Inflight()
	if err != nil {
		return nil, err
	}
	for i := range list {
		s.Inflight = append(s.Inflight, tell(&list[i], max(now, mono())))
	}
	limit, rate := t.dev.Threshold()
	s.Limit, s.Rate = int64(limit), rate
	return s, nil
}

// Count reads only what was counted, since begun.
func (t *Tracer) Count() (s *bpf.Snapshot, begun time.Time, err error) {
	s, err = t.dev.Snapshot()
	return s, time.Now().Add(-time.Duration(mono() - t.since)), err
}

// SetThreshold chooses outliers.
func (t *Tracer) SetThreshold(d time.Duration, rate int) error { return t.dev.SetThreshold(d, rate) }

// Stop ends the counting; what Take gives then is of whole requests.
func (t *Tracer) Stop() error { return t.dev.Stop() }

// Close detaches; the server must not use its slots any more.
func (t *Tracer) Close() error { return t.probes.Close() }

// Without says that there are probes.
func (t *Tracer) Without() error { return nil }

// Command is the control command that a server answers by Answer.
const Command = "latency"

// Answer carries out Command with its settings: threshold_ns and outliers_per_s, where given.
func (t *Tracer) Answer(set map[string]string) (*Snapshot, error) { return answer(t, set) }

func answer(src Source, set map[string]string) (*Snapshot, error) {
	if v, ok := set["threshold_ns"]; ok {
		ns, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("latency: threshold_ns: %w", err)
		}
		rate := bpf.DefaultRate
		if v, ok := set["outliers_per_s"]; ok {
			if rate, err = strconv.Atoi(v); err != nil {
				return nil, fmt.Errorf("latency: outliers_per_s: %w", err)
			}
		}
		if err := src.SetThreshold(time.Duration(ns), rate); err != nil {
			return nil, err
		}
	}
	return src.Take()
}

// remote is a volume's server.
type remote struct{ volume string }

// Ask is the server of a volume as a source.
func Ask(volume string) Source { return &remote{volume} }

func (r *remote) do(set map[string]string) (*Snapshot, error) {
	ctx, cancel := context.WithTimeout(context.Background(), control.StatusTimeout)
	defer cancel()
	s := &Snapshot{}
	if err := control.Do(ctx, r.volume, Command, control.Args{Set: set}, nil, s); err != nil {
		return nil, err
	}
	_, err := s.unpack()
	return s, err
}

func (r *remote) Take() (*Snapshot, error) { return r.do(nil) }

func (r *remote) SetThreshold(t time.Duration, rate int) error {
	_, err := r.do(map[string]string{"threshold_ns": strconv.FormatInt(int64(t), 10), "outliers_per_s": strconv.Itoa(rate)})
	return err
}

func (r *remote) Close() error { return nil }

// IsPath reports whether the user named a block device's path, not a volume.
func IsPath(name string) bool { return strings.Contains(name, "/") }
