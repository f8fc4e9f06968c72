package bpf

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// Options of a set of probes.
type Options struct {
	Devices  int  // how many AddDevice may add, up to MaxDevices; 0: 1
	Slots    int  // of all devices together, queues × depth each; 0 where no server stamps
	Inflight int  // requests in flight that are followed; 0: 8192
	NoRing   bool // do without io_uring's tracepoint
	Cost     bool // Measure while they are open
}

// MaxDevices is how many devices one set of probes can trace.
const MaxDevices = 16

// Probes is one set of attached programs, for several devices. Its methods are for any goroutine.
type Probes struct {
	coll   *ebpf.Collection
	links  []link.Link
	stats  io.Closer // keeps run-time statistics on; nil: off
	reader *ringbuf.Reader
	slots  []byte // the mapped array
	list   []Program

	mu      sync.Mutex
	devices []*Device // by index; nil: removed
	used    int       // slots given out
	rec     ringbuf.Record
}

// Program is one probe: what it is attached to, or why it is not.
type Program struct {
	Name       string // of the program
	Tracepoint string
	Gives      string // what is known by it
	Attached   bool
	Why        string // not attached
	Runs       uint64 // while Measure was on
	Nanos      uint64 // of them
	Missed     uint64 // events during another probe's run on the same CPU
	prog       *ebpf.Program
	need       bool
}

func programs() []Program {
	return []Program{
		{Name: "on_issue", Tracepoint: "block_rq_issue", Gives: "when a request went to the driver", need: true},
		{Name: "on_complete", Tracepoint: "block_rq_complete", Gives: "when it was complete; joins all stamps", need: true},
		{Name: "on_insert", Tracepoint: "block_rq_insert", Gives: "requests that wait in the scheduler"},
		{Name: "on_merge", Tracepoint: "block_rq_merge", Gives: "requests that ended in another one"},
		{Name: "on_posted", Tracepoint: "io_uring_complete", Gives: "when it reached the server's ring"},
	}
}

// Open loads and attaches the probes. It fails, with the reason and the remedy, where not even
// issue and completion can be seen; what else cannot be attached is told by Programs.
func Open(o Options) (*Probes, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("latency probes: the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	p := &Probes{list: programs(), devices: make([]*Device, 0, max(o.Devices, 1))}
	spec, err := loadLatency()
	if err != nil {
		return nil, fmt.Errorf("latency probes: %w", err)
	}
	p.choose(spec, kernel, o)
	if err := size(spec, o); err != nil {
		return nil, fmt.Errorf("latency probes: %w", err)
	}
	if err := p.load(spec); err != nil {
		return nil, err
	}
	if o.Cost {
		if p.stats, err = Measure(); err != nil {
			p.stats = nil // the numbers are missing, nothing else
		}
	}
	if err := p.attach(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if p.reader, err = ringbuf.NewReader(p.coll.Maps[latencyMapOutliers]); err == nil && o.Slots > 0 {
		p.slots, err = mapSlots(p.coll.Maps[latencyMapSlots].FD(), o.Slots)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("latency probes: %w", err), p.Close())
	}
	return p, nil
}

// Measure has the kernel count and time the runs of all BPF programs of the machine until the
// closer is closed; that itself costs some 20 ns a run.
func Measure() (io.Closer, error) {
	const runTime = 0 // BPF_STATS_RUN_TIME
	return ebpf.EnableStats(runTime)
}

// choose drops what this kernel does not have, and the test program.
func (p *Probes) choose(spec *ebpf.CollectionSpec, kernel *btf.Spec, o Options) {
	delete(spec.Programs, latencyProgTestAccount)
	for i := range p.list {
		r := &p.list[i]
		n, err := parameters(kernel, r.Tracepoint)
		switch {
		case err != nil:
			r.Why = "this kernel has no such tracepoint"
			delete(spec.Programs, r.Name)
		case r.Tracepoint != "io_uring_complete":
			continue
		case o.NoRing:
			r.Why = "not asked for"
		case n == 3:
			r.Name = latencyProgOnPosted3
		case n == 7:
			r.Name = latencyProgOnPosted7
		default:
			r.Why = fmt.Sprintf("its %d parameters are not known here", n)
		}
	}
	ring := p.list[len(p.list)-1].Name
	for _, name := range []string{latencyProgOnPosted3, latencyProgOnPosted7} {
		if name != ring {
			delete(spec.Programs, name)
		}
	}
}

// parameters counts a tracepoint's own.
func parameters(kernel *btf.Spec, tracepoint string) (int, error) {
	var t *btf.Typedef
	if err := kernel.TypeByName("btf_trace_"+tracepoint, &t); err != nil {
		return 0, err
	}
	ptr, ok := t.Type.(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("%s: no pointer", t.Name)
	}
	f, ok := ptr.Target.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("%s: no function", t.Name)
	}
	return len(f.Params) - 1, nil // the first is the probe's own data
}

func size(spec *ebpf.CollectionSpec, o Options) error {
	n := uint32(max(o.Devices, 1))
	if n > MaxDevices {
		return fmt.Errorf("%d devices: up to %d", n, MaxDevices)
	}
	if err := spec.Variables[latencyVarDeviceCount].Set(n); err != nil {
		return err
	}
	spec.Maps[latencyMapCounts].MaxEntries = n
	spec.Maps[latencyMapWindows].MaxEntries = n
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	spec.Maps[latencyMapRows].MaxEntries = uint32(cpus) * n * uint32(Ops)
	spec.Maps[latencyMapSlots].MaxEntries = uint32(max(o.Slots, 1))
	if o.Inflight > 0 {
		spec.Maps[latencyMapInflight].MaxEntries = uint32(o.Inflight)
	}
	// Both powers of two: the ring holds at least one page.
	spec.Maps[latencyMapOutliers].MaxEntries = uint32(max(1<<18, 1<<bits.Len(uint(os.Getpagesize()-1))))
	return nil
}

// load loads spec; where the kernel refuses, once more without what can be done without.
func (p *Probes) load(spec *ebpf.CollectionSpec) (err error) {
	if p.coll, err = ebpf.NewCollection(spec); err == nil {
		return nil
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("latency probes: %w: they need root, or CAP_BPF and CAP_PERFMON", os.ErrPermission)
	}
	for i := range p.list {
		if r := &p.list[i]; !r.need && r.Why == "" {
			r.Why = fmt.Sprintf("the kernel refused one of the programs: %v", err)
			delete(spec.Programs, r.Name)
		}
	}
	var again error
	if p.coll, again = ebpf.NewCollection(spec); again != nil {
		return fmt.Errorf("latency probes: the kernel refused them: %w", again)
	}
	return nil
}

// attach attaches completion before issue, so that nothing issued is left in flight.
func (p *Probes) attach() error {
	for i := len(p.list) - 1; i >= 0; i-- {
		r := &p.list[i]
		if r.Why == "" {
			r.prog = p.coll.Programs[r.Name]
			l, err := link.AttachTracing(link.TracingOptions{Program: r.prog})
			if err == nil {
				r.Attached = true
				p.links = append(p.links, l)
				continue
			}
			r.Why = err.Error()
		}
		if r.need {
			return fmt.Errorf("latency probes: %s: %s", r.Tracepoint, r.Why)
		}
	}
	return nil
}

// Unattached is what Programs tells of where Open failed, for the reason why.
func Unattached(why error) []Program {
	list := programs()
	for i := range list {
		list[i].Why = why.Error()
	}
	return list
}

// Programs tells of each probe whether it is attached, and what it has cost.
func (p *Probes) Programs() []Program {
	out := append([]Program(nil), p.list...)
	for i := range out {
		r := &out[i]
		if r.prog == nil {
			continue
		}
		if s, err := r.prog.Stats(); err == nil {
			r.Runs, r.Nanos, r.Missed = s.RunCount, uint64(s.Runtime), s.RecursionMisses
		}
	}
	return out
}

// Close detaches everything. Slots must not be used any more.
func (p *Probes) Close() error {
	var errs []error
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	p.links = nil
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	if p.stats != nil {
		errs = append(errs, p.stats.Close())
	}
	if p.slots != nil {
		errs = append(errs, unmapSlots(p.slots))
		p.slots = nil
	}
	if p.coll != nil {
		p.coll.Close()
	}
	return errors.Join(errs...)
}
