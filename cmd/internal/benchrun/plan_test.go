package benchrun

import (
	"slices"
	"strings"
	"testing"
)

func names(cases []Case) (out []string) {
	for _, c := range cases {
		n := c.Name
		if c.Sustained {
			n += "!"
		}
		out = append(out, n)
	}
	return out
}

func TestPlan(t *testing.T) {
	for _, x := range []struct {
		o    Options
		want string
	}{
		{Options{Set: "null"}, "raw:brd null"},
		{Options{Set: "file"}, "raw:nvme file:nvme"},
		{Options{Set: "file", Data: "sata"}, "raw:sata file:sata"},
		{Options{Set: "dcd", Workloads: []string{"rw1"}}, "raw:nvme file:nvme dcd:nvme+hdd dcd:nvme+nvme raw:sata file:sata dcd:sata+hdd"},
		{Options{Set: "dcd", Workloads: []string{Sustained}}, "raw:hdd! raw:nvme! dcd:nvme+hdd! dcd:nvme+nvme! dcd:sata+hdd!"},
		{Options{Set: "dcd", Log: "nvme", Data: "sata"}, "raw:nvme file:nvme dcd:nvme+sata raw:sata! dcd:nvme+sata!"},
		{Options{Set: "mirror"}, "raw:nvme file:nvme off:nvme+nvme sync:nvme+nvme sync-plain:nvme+nvme async:nvme+nvme async-plain:nvme+nvme"},
		{Options{Set: "mirror", Log: "brd"}, "raw:brd file:brd off:brd+brd sync:brd+brd sync-plain:brd+brd async:brd+brd async-plain:brd+brd"},
	} {
		x.o.Scale = 100
		cases, err := Plan(x.o)
		if got := strings.Join(names(cases), " "); err != nil || got != x.want {
			t.Errorf("%+v:\n got %s %v\nwant %s", x.o, got, err, x.want)
		}
		for i, c := range cases {
			for _, ref := range []string{c.Raw, c.File} {
				if ref != "" && !slices.ContainsFunc(cases[:i+1], func(r Case) bool { return r.Name == ref && r.Sustained == c.Sustained }) {
					t.Errorf("%s: its reference %s does not run before it", c.Name, ref)
				}
			}
		}
	}
}

func TestPlanOfMirror(t *testing.T) {
	cases, err := Plan(Options{Set: "mirror", Scale: 50})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		add, serve := strings.Join(c.Add, " "), strings.Join(c.Serve, " ")
		switch c.Name {
		case "raw:nvme":
			if c.Scale != 150 {
				t.Errorf("scale %d: a bare disk needs more requests to be timed", c.Scale)
			}
		case "off:nvme+nvme":
			if c.Peer || add+serve != "" {
				t.Errorf("%+v", c)
			}
		case "async:nvme+nvme":
			if !c.Peer || add != "--mode=async" || serve != "" {
				t.Errorf("%+v", c)
			}
		case "sync-plain:nvme+nvme":
			if !c.Peer || add != "--mode=sync --encrypt=off" || serve != "--encrypt=off" {
				t.Errorf("%+v", c)
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, o := range []Options{
		{Set: "else", Scale: 100},
		{Set: "null"},
		{Set: "mirror", Scale: 100, Workloads: []string{Sustained}},
		{Set: "dcd", Scale: 100, Log: "brd", Workloads: []string{Sustained}},
	} {
		if cases, err := Plan(o); err == nil {
			t.Errorf("%+v: %v", o, names(cases))
		}
	}
}
