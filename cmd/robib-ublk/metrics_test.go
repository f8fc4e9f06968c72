package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v2"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/metrics"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk"
)

// everything is a volume of which all metrics are exported.
type everything struct{}

func (everything) Sample() (*metrics.Sample, error) {
	s := &metrics.Sample{HasPeer: true, Node: mirror.Status{Primary: true, Connected: true, RoundTripNanos: 1}, Sockets: &wire.Sockets{Data: &wire.TCP{}, Control: &wire.TCP{}}, Requests: &ublk.Counts{}, Latency: &bpf.Snapshot{}, Traced: time.Unix(1e9, 0), CertificateEnd: &time.Time{}}
	for st := range bpf.Stages {
		s.Latency.Hists[bpf.Write][st].Record(1)
	}
	return s, nil
}

// exported are the labels, and their values, of each series that Prometheus may see.
func exported(t *testing.T) map[string]map[string][]string {
	r := prometheus.NewRegistry()
	r.MustRegister(metrics.NewCollector("v", everything{}))
	list, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string][]string{}
	for _, f := range list {
		labels := map[string][]string{"instance": nil, "job": nil}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		names := []string{""}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{"", "_bucket", "_sum", "_count"}
		}
		for _, n := range names {
			all[f.GetName()+n] = labels
		}
	}
	return all
}

var (
	seriesRE  = regexp.MustCompile(`\b(robib_[a-z0-9_]+)(\{[^}]*\})?`)
	matcherRE = regexp.MustCompile(`([a-z]+)(=~|!~|!=|=)"([^"]*)"`)
	byRE      = regexp.MustCompile(`\b(?:by|on|ignoring) \(([a-z, ]*)\)`)
)

// check reports what of a query is not exported: a series, a label of it, or a value of the label.
func check(all map[string]map[string][]string, query string) (problems []string) {
	found := seriesRE.FindAllStringSubmatch(query, -1)
	if len(found) == 0 {
		problems = append(problems, "no series in "+query)
	}
	labels := []string{"le"}
	for _, s := range found {
		known, ok := all[s[1]]
		if !ok {
			problems = append(problems, s[1]+" is not exported")
		}
		for l := range known {
			labels = append(labels, l)
		}
		for _, m := range matcherRE.FindAllStringSubmatch(s[2], -1) {
			values, ok := known[m[1]]
			if !ok {
				problems = append(problems, s[1]+" has no label "+m[1])
				continue
			}
			for _, v := range strings.Split(m[3], "|") {
				if !strings.HasPrefix(v, "$") && !slices.Contains(values, v) {
					problems = append(problems, s[1]+" has no "+m[1]+" "+v)
				}
			}
		}
	}
	for _, b := range byRE.FindAllStringSubmatch(query, -1) {
		for _, l := range strings.Split(b[1], ",") {
			if !slices.Contains(labels, strings.TrimSpace(l)) {
				problems = append(problems, "no label "+l+" in "+query)
			}
		}
	}
	return problems
}

func TestQueryCheckCanFail(t *testing.T) {
	all := exported(t)
	for query, want := range map[string]int{
		`rate(robib_requests_total{op="write"}[5m])`:                          0,
		`robib_request_duration_seconds_bucket{op=~"$op", stage=~"log|data"}`: 0,
		`robib_lag_bytes_bucket`:                                              1,
		`robib_request_total`:                                                 1,
		`robib_requests_total{operation="write"}`:                             1,
		`robib_requests_total{op="eat"}`:                                      1,
		`robib_volume_state{state=~"in sync|out of sync"}`:                    1,
		`sum by (op, stage) (robib_requests_total)`:                           1,
		`up`: 1,
		`robib_lag_seconds > on (instance, volume) robib_peer_round_trip_second`: 1,
	} {
		if got := check(all, query); len(got) != want {
			t.Errorf("%s: %q, want %d", query, got, want)
		}
	}
}

func TestDashboard(t *testing.T) {
	type target struct{ Expr string }
	var d struct {
		Title, UID string
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			Datasource  map[string]string
			Targets     []target
			GridPos     struct{ X, Y, W, H int }
			FieldConfig struct{ Defaults struct{ Unit string } }
		}
	}
	if err := json.Unmarshal([]byte(dashboard), &d); err != nil {
		t.Fatal(err)
	}
	all := exported(t)
	var names []string
	for _, v := range d.Templating.List {
		if names = append(names, v.Name); v.Type == "query" {
			for _, p := range check(all, v.Definition) {
				t.Error(v.Name, p)
			}
		}
	}
	if d.Title == "" || d.UID == "" || !slices.Equal(names, []string{"datasource", "volume", "op"}) {
		t.Errorf("%q %q %q", d.Title, d.UID, names)
	}
	taken := map[[2]int]string{}
	var types []string
	for _, p := range d.Panels {
		types = append(types, p.Type)
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if was := taken[[2]int{x, y}]; was != "" || x >= 24 {
					t.Fatalf("%s lies on %s, or outside", p.Title, was)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource["uid"] != "${datasource}" || len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("%d %s: %v", p.ID, p.Title, p.Datasource)
		}
		for _, q := range p.Targets {
			for _, problem := range check(all, q.Expr) {
				t.Errorf("%s: %s", p.Title, problem)
			}
		}
	}
	for _, want := range []string{"heatmap", "timeseries", "stat", "state-timeline"} {
		if !slices.Contains(types, want) {
			t.Error("no panel of type", want)
		}
	}
}

func TestAlerts(t *testing.T) {
	var doc struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict([]byte(alerts), &doc); err != nil {
		t.Fatal(err)
	}
	all, n := exported(t), 0
	for _, g := range doc.Groups {
		for _, r := range g.Rules {
			n++
			for _, p := range check(all, r.Expr) {
				t.Errorf("%s: %s", r.Alert, p)
			}
			if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
				t.Errorf("%s: for %v", r.Alert, err)
			}
			if s := r.Labels["severity"]; s != "warning" && s != "critical" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: %v %v", r.Alert, r.Labels, r.Annotations)
			}
		}
	}
	if n < 8 {
		t.Errorf("%d rules", n)
	}
}
