package benchrun

import (
	"fmt"
	"slices"
)

// Model names an imitated disk: nvme, sata, hdd or brd.
type Model string

// Kinds of devices.
const (
	kindRaw    = "raw"    // the imitated disk itself
	kindFile   = "file"   // robib-ublk bench target file on it
	kindNull   = "null"   // robib-ublk bench target null
	kindVolume = "volume" // robib-ublk add
)

// Case is one device, measured in a guest of its own.
type Case struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	Log       Model    `json:"log,omitempty"`
	Data      Model    `json:"data,omitempty"`
	Peer      bool     `json:"peer,omitempty"`
	Add       []string `json:"add,omitempty"`   // more flags of add
	Serve     []string `json:"serve,omitempty"` // more flags of serve
	Workloads []string `json:"workloads,omitempty"`
	Sustained bool     `json:"sustained,omitempty"`
	Probes    bool     `json:"probes,omitempty"`
	Scale     int      `json:"scale"`          // per cent of each workload's requests
	Raw       string   `json:"raw,omitempty"`  // the case that a ratio is taken to: the bare disk
	File      string   `json:"file,omitempty"` // and the bare ublk device on it
}

// Options say what to measure.
type Options struct {
	Set       string   // null, file, dcd or mirror
	Workloads []string // empty: the defaults of the set
	Log, Data Model    // "": the defaults of the set
	Scale     int
	Probes    bool // attach the latency probes
}

// pair is a log's model and a data disk's.
type pair struct{ log, data Model }

// Plan lists the cases of a set, references first.
func Plan(o Options) ([]Case, error) {
	jobs, sustained := o.Workloads, false
	if len(jobs) == 0 {
		jobs, sustained = DefaultWorkloads(), o.Set == "dcd" && o.Log != "brd"
	} else if slices.Contains(jobs, Sustained) {
		sustained = true
		jobs = slices.DeleteFunc(slices.Clone(jobs), func(n string) bool { return n == Sustained })
	}
	if o.Scale <= 0 {
		return nil, fmt.Errorf("scale %d: a positive number of per cent", o.Scale)
	}
	p := plan{scale: o.Scale, jobs: jobs, probes: o.Probes}
	pairs := pairsOf(o)
	switch o.Set {
	case "null":
		m := or(o.Data, "brd")
		p.add(Case{Kind: kindRaw, Data: m})
		p.add(Case{Kind: kindNull, Raw: name(kindRaw, m)})
	case "file":
		p.references(or(o.Data, "nvme"))
	case "dcd":
		for _, x := range pairs {
			p.references(x.log)
			p.add(Case{Name: fmt.Sprintf("dcd:%s+%s", x.log, x.data), Kind: kindVolume, Log: x.log, Data: x.data})
		}
	case "mirror":
		for _, x := range pairs {
			p.references(x.log)
			p.mirrors(x)
		}
	default:
		return nil, fmt.Errorf("set %q: there are null, file, dcd, mirror", o.Set)
	}
	if sustained {
		if o.Set != "dcd" {
			return nil, fmt.Errorf("%s is a workload of the set dcd only", Sustained)
		}
		if slices.ContainsFunc(pairs, func(x pair) bool { return x.log == "brd" }) {
			return nil, fmt.Errorf("%s needs a log of %d MiB, and brd has one size", Sustained, SustainedMiB)
		}
		p.sustained(pairs)
	}
	return p.cases, nil
}

func or(m, otherwise Model) Model {
	if m == "" {
		return otherwise
	}
	return m
}

func pairsOf(o Options) []pair {
	switch {
	case o.Log != "" || o.Data != "":
		return []pair{{or(o.Log, "nvme"), or(o.Data, or(o.Log, "nvme"))}}
	case o.Set == "mirror":
		return []pair{{"nvme", "nvme"}}
	}
	return []pair{{"nvme", "hdd"}, {"nvme", "nvme"}, {"sata", "hdd"}}
}

func name(kind string, m Model) string { return fmt.Sprintf("%s:%s", kind, m) }

type plan struct {
	cases  []Case
	jobs   []string
	scale  int
	probes bool
}

// add puts a case on the list, once, unless there is nothing to measure of it.
func (p *plan) add(c Case) {
	if c.Name == "" {
		c.Name = c.Kind
		if c.Data != "" {
			c.Name = name(c.Kind, c.Data)
		}
	}
	if slices.ContainsFunc(p.cases, func(x Case) bool { return x.Name == c.Name && x.Sustained == c.Sustained }) {
		return
	}
	if c.Kind == kindVolume {
		c.Raw, c.File = name(kindRaw, c.Log), name(kindFile, c.Log)
	}
	c.Scale, c.Probes = p.scale, p.probes
	if c.Kind == kindRaw && c.Data != "hdd" {
		c.Scale *= 3 // fio times whole milliseconds
	}
	if c.Sustained {
		c.Raw, c.File = name(kindRaw, c.Data), ""
	} else if c.Workloads = p.jobs; len(p.jobs) == 0 {
		return
	}
	p.cases = append(p.cases, c)
}

func (p *plan) references(m Model) {
	p.add(Case{Kind: kindRaw, Data: m})
	p.add(Case{Kind: kindFile, Data: m, Raw: name(kindRaw, m)})
}

// mirrors are a volume without a peer, and with one in each mode, encrypted and not.
func (p *plan) mirrors(x pair) {
	one := func(mode, what string, flags ...string) {
		c := Case{Name: fmt.Sprintf("%s%s:%s+%s", mode, what, x.log, x.data), Kind: kindVolume, Log: x.log, Data: x.data, Peer: mode != "off", Add: flags, Serve: flags}
		if c.Peer {
			c.Add = append([]string{"--mode=" + mode}, flags...)
		}
		p.add(c)
	}
	one("off", "")
	for _, mode := range []string{"sync", "async"} {
		one(mode, "")
		one(mode, "-plain", "--encrypt=off")
	}
}

// sustained are the bare data disks and the caches on them.
func (p *plan) sustained(pairs []pair) {
	for _, x := range pairs {
		p.add(Case{Kind: kindRaw, Data: x.data, Sustained: true})
	}
	for _, x := range pairs {
		p.add(Case{Name: fmt.Sprintf("dcd:%s+%s", x.log, x.data), Kind: kindVolume, Log: x.log, Data: x.data, Sustained: true})
	}
}
