package bpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// Op is a kind of request.
type Op int

// The operations.
const (
	Read Op = iota
	Write
	Flush
	Discard
	WriteZeroes
	Ops
)

func (o Op) String() string {
	return [...]string{"read", "write", "flush", "discard", "write_zeroes"}[o]
}

// Stamp is a moment that a server records, in the order in which a request may pass them.
type Stamp int

// The stamps.
const (
	Pickup Stamp = iota
	Begun
	LogDone
	DataDone
	PeerSent
	PeerAcked
	Committed
	Stamps
)

// Stage is a part of a request's way. Queue to Complete follow each other and add up to Total:
// each is what it added to the latest moment known before it, 0 where it overlapped others.
// Stages whose stamp is missing are not counted.
type Stage int

// The stages.
const (
	StageQueue    Stage = iota // made → issued to the driver
	StageDispatch              // issued → picked up by the server
	StageServer                // → it leaves the server's queue: for a segment of the log, for where its data lies
	StageLog                   // → in the log
	StageData                  // → read from, or written to, the data disk
	StageSent                  // → sent to the peer
	StageAcked                 // → acknowledged by the peer
	StageCommit                // → committed to the driver by the server
	StageComplete              // committed → complete
	StageDevice                // issued → complete: dispatch to complete together
	StageRing                  // the part of dispatch until it was in the server's ring
	StageWake                  // the rest of it
	StageTotal                 // made → complete
	StageFromRAM               // total of a read that a cache served, by the farthest place that a part of it came from
	StageFromLog
	StageFromData
	StageFromPeer
	Stages
)

func (s Stage) String() string {
	return [...]string{"queue", "dispatch", "server_queue", "log", "data", "peer_sent", "peer_acked", "commit", "complete", "device", "ring", "wake", "total", "from_ram", "from_log", "from_data", "from_peer"}[s]
}

// Device is one traced block device.
type Device struct {
	p     *Probes
	v     latencyDevice
	slots *Slots
}

// AddDevice begins to trace the whole disk whose st_rdev is rdev. queues and depth are those of
// the server that stamps its slots; 0 where none does.
func (p *Probes) AddDevice(rdev uint64, queues, depth int) (*Device, error) {
	major, minor := rdev>>8&0xfff|rdev>>32&^0xfff, rdev&0xff|rdev>>12&^0xff&0xffffffff
	d := &Device{p: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.devices) == cap(p.devices) {
		return nil, fmt.Errorf("latency probes: room for %d devices only", cap(p.devices))
	}
	n := queues * depth
	if have := len(p.slots) / slotBytes; n < 0 || p.used+n > have {
		return nil, fmt.Errorf("latency probes: room for %d slots only", have)
	}
	d.v = latencyDevice{Dev: uint32(major<<20 | minor), Index: uint32(len(p.devices)), Base: uint32(p.used), Depth: uint32(depth), Queues: uint32(queues), Rate: DefaultRate}
	d.slots = &Slots{mem: p.slots[p.used*slotBytes : (p.used+n)*slotBytes], Depth: depth}
	if slices.ContainsFunc(p.devices, func(o *Device) bool { return o.v.Dev == d.v.Dev }) {
		return nil, fmt.Errorf("latency probes: device %d:%d is traced already", major, minor)
	}
	if err := d.update(&d.v); err != nil {
		return nil, fmt.Errorf("latency probes: device %d:%d: %w", major, minor, err)
	}
	p.used += n
	p.devices = append(p.devices, d)
	return d, nil
}

// update makes v the kernel's.
func (d *Device) update(v *latencyDevice) error {
	var all [MaxDevices]latencyDevice
	devices := d.p.coll.Variables[latencyVarDevices]
	if err := devices.Get(&all); err != nil {
		return err
	}
	all[v.Index] = *v
	return devices.Set(&all)
}

// DefaultRate is how many outliers a second are told of.
const DefaultRate = 100

// Slots are the device's, for its server.
func (d *Device) Slots() *Slots { return d.slots }

// AddSource says that user data ring<<48 | tag of process pid's ring are queue's fetches.
func (d *Device) AddSource(pid int, ring uint16, queue int) error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	sources := d.p.coll.Maps[latencyMapSources]
	s := latencySource{Pid: uint32(pid), Id: uint32(ring), Base: d.v.Base + uint32(queue)*d.v.Depth, Depth: d.v.Depth}
	var old latencySource
	at := uint32(ring) % sources.MaxEntries()
	if err := sources.Lookup(at, &old); err != nil {
		return fmt.Errorf("latency probes: %w", err)
	}
	if old.Depth != 0 && (old.Pid != s.Pid || old.Id != s.Id) {
		return fmt.Errorf("latency probes: source %d of process %d has the place of %d of process %d", ring, pid, old.Id, old.Pid)
	}
	return sources.Put(at, &s)
}

// SetThreshold makes requests that take at least t outliers, of which at most rate a second are
// told of; t 0 ends that.
func (d *Device) SetThreshold(t time.Duration, rate int) error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	d.v.Threshold, d.v.Rate = uint64(max(t, 0)), uint32(max(rate, 0))
	return d.update(&d.v)
}

// Threshold is what SetThreshold set.
func (d *Device) Threshold() (t time.Duration, rate int) {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	return time.Duration(d.v.Threshold), int(d.v.Rate)
}

// Stop ends the device's counting, so that a Snapshot after it is of whole requests. Its place stays taken.
func (d *Device) Stop() error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	d.v.Dev = 0
	return d.update(&d.v)
}

// Stats counts a device's events since AddDevice.
type Stats struct {
	Inserted  uint64 `json:"inserted"`
	Issued    uint64 `json:"issued"`
	Completed uint64 `json:"completed"`
	Matched   uint64 `json:"matched"`       // completed with the server's stamps
	Failed    uint64 `json:"failed"`        // completed with an error
	Partial   uint64 `json:"partial"`       // completions of a part of a request
	Unseen    uint64 `json:"unseen"`        // completions whose issue was not seen, flush sequences' second ones among them
	Merged    uint64 `json:"merged"`        // ended in another request
	Full      uint64 `json:"not_followed"`  // too many in flight
	Slow      uint64 `json:"slow"`          // outliers
	Shed      uint64 `json:"slow_not_told"` // outliers beyond the rate
}

// Snapshot is what a device's requests took since AddDevice, merged over the CPUs.
type Snapshot struct {
	Hists [Ops][Stages]Histogram
	Stats Stats
}

// Snapshot reads the device's histograms; requests that complete meanwhile may be in some stages and not in others.
func (d *Device) Snapshot() (*Snapshot, error) {
	s := &Snapshot{}
	rows := d.p.coll.Maps[latencyMapRows]
	r := &latencyRow{}
	for key := d.v.Index * uint32(Ops); key < rows.MaxEntries(); key += uint32(cap(d.p.devices)) * uint32(Ops) {
		for op := range Ops {
			if err := rows.Lookup(key+uint32(op), r); err != nil {
				return nil, fmt.Errorf("latency probes: %w", err)
			}
			for st := range Stages {
				c := &r.Stages[st]
				h := Histogram{Sum: c.Sum, Min: ^c.Low, Max: c.Max, Buckets: c.Buckets}
				for _, n := range h.Buckets {
					h.Count += n
				}
				s.Hists[op][st].Merge(&h)
			}
		}
	}
	var err error
	s.Stats, err = d.stats()
	for op := range Ops {
		s.Stats.Completed += s.Hists[op][StageTotal].Count
		s.Stats.Matched += s.Hists[op][StageComplete].Count
	}
	return s, err
}

func (d *Device) stats() (s Stats, err error) {
	var cpus []latencyCounters
	if err := d.p.coll.Maps[latencyMapCounts].Lookup(d.v.Index, &cpus); err != nil {
		return s, fmt.Errorf("latency probes: %w", err)
	}
	into := []*uint64{&s.Inserted, &s.Issued, &s.Failed, &s.Partial, &s.Unseen, &s.Merged, &s.Full, &s.Slow, &s.Shed}
	for _, c := range cpus {
		for i, n := range c.N {
			*into[i] += n
		}
	}
	return s, nil
}

// Since is what happened after old, an earlier state of s.
func (s *Snapshot) Since(old *Snapshot) *Snapshot {
	d := &Snapshot{}
	for op := range s.Hists {
		for st := range s.Hists[op] {
			d.Hists[op][st] = s.Hists[op][st].Since(&old.Hists[op][st])
		}
	}
	a, b := &s.Stats, &old.Stats
	d.Stats = Stats{a.Inserted - b.Inserted, a.Issued - b.Issued, a.Completed - b.Completed, a.Matched - b.Matched, a.Failed - b.Failed,
		a.Partial - b.Partial, a.Unseen - b.Unseen, a.Merged - b.Merged, a.Full - b.Full, a.Slow - b.Slow, a.Shed - b.Shed}
	return d
}

// Request is one request, complete or in flight; moments are ns of CLOCK_MONOTONIC, 0 unknown.
type Request struct {
	Device        *Device
	Op            Op
	Sector        uint64 // of 512 bytes
	Bytes         uint32
	Start         int64 // made, or first seen
	Insert, Issue int64 // into the scheduler, to the driver
	Posted        int64 // in the server's ring
	Stamps        [Stamps]int64
	Complete      int64
	Status        int // the kernel's blk_status_t; 0 well
	Queue, Tag    int // -1 unknown
}

func (p *Probes) request(io *latencyIo) (r Request, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(io.Device) >= len(p.devices) || io.Op >= uint32(Ops) {
		return r, false
	}
	d := p.devices[io.Device]
	r = Request{Device: d, Op: Op(io.Op), Sector: io.Sector, Bytes: io.Bytes, Start: int64(io.Start), Insert: int64(io.Insert), Issue: int64(io.Issue), Queue: -1, Tag: -1}
	if i := int(io.Slot) - int(d.v.Base); io.Slot != ^uint32(0) && i < d.slots.Len() {
		r.Queue, r.Tag = i/int(d.v.Depth), i%int(d.v.Depth)
	}
	return r, true
}

// Outliers gives the outliers of all devices that came since the last call, oldest first.
func (p *Probes) Outliers() (list []Request, err error) {
	p.reader.SetDeadline(time.Now())
	for {
		if err := p.reader.ReadInto(&p.rec); errors.Is(err, os.ErrDeadlineExceeded) {
			return list, nil
		} else if err != nil {
			return list, fmt.Errorf("latency probes: %w", err)
		}
		o, ok := parseOutlier(p.rec.RawSample)
		if !ok {
			continue
		}
		r, ok := p.request(&o.Io)
		if !ok {
			continue
		}
		r.Posted, r.Complete, r.Status = int64(o.Posted), int64(o.Complete), int(o.Status)
		for i, t := range o.Stamps {
			r.Stamps[i] = int64(t)
		}
		list = append(list, r)
	}
}

// Inflight gives the requests of all devices that are not complete, oldest first.
func (p *Probes) Inflight() ([]Request, error) {
	var list []Request
	var key uint64
	var io latencyIo
	waits := map[uint64]bool{} // issued before, perhaps, and then taken back
	it := p.coll.Maps[latencyMapInflight].Iterate()
	for it.Next(&key, &io) {
		waits[key] = true
		if r, ok := p.request(&io); ok {
			list = append(list, r)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("latency probes: %w", err)
	}
	p.mu.Lock()
	devices := slices.Clone(p.devices)
	p.mu.Unlock()
	for _, d := range devices {
		for i := range d.slots.Len() {
			io, stamps, posted := d.slots.read(i)
			if r, ok := p.request(&io); ok && io.Rq != 0 && !waits[io.Rq] {
				r.Stamps, r.Posted = stamps, posted
				list = append(list, r)
			}
		}
	}
	slices.SortFunc(list, func(a, b Request) int { return int(a.Start - b.Start) })
	return list, nil
}
