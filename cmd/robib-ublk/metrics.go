package main

import (
	_ "embed"
	"fmt"
	"io"
)

var (
	//go:embed dist/dashboard.json
	dashboard string
	//go:embed dist/alerts.yaml
	alerts string
)

// MetricsCmd groups what goes with --metrics.
type MetricsCmd struct {
	Dashboard DashboardCmd `cmd:"" help:"Print a Grafana dashboard, to be imported."`
	Alerts    AlertsCmd    `cmd:"" help:"Print example alert rules for Prometheus."`
}

// DashboardCmd prints the dashboard; it is JSON with -j and without.
type DashboardCmd struct{}

// Run prints it.
func (*DashboardCmd) Run(*CLI) error {
	_, err := fmt.Print(dashboard)
	return err
}

// AlertsCmd prints the rules.
type AlertsCmd struct{}

// Run prints them: as the file that Prometheus reads, or as a JSON string.
func (*AlertsCmd) Run(cli *CLI) error {
	return cli.print(map[string]string{"alerts_yaml": alerts}, func(w io.Writer) error {
		_, err := fmt.Fprint(w, alerts)
		return err
	})
}
