package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// Exit codes. status has two more: degraded and inconsistent.
const (
	exitOK           = 0
	exitFailure      = 1
	exitUsage        = 2
	exitDegraded     = 3
	exitInconsistent = 4
)

// CLI is the grammar; each command lives in a file of its own.
type CLI struct {
	JSON   bool `short:"j" help:"Print one JSON document."`
	Pretty bool `short:"p" help:"Print JSON that is indented."`

	Add         AddCmd         `cmd:"" help:"Make a disk a volume and its block device, or reopen a known volume."`
	Serve       ServeCmd       `cmd:"" help:"Hold the second copy of a volume: wait for its primary and follow it."`
	List        ListCmd        `cmd:"" help:"List the volumes of this machine."`
	Status      StatusCmd      `cmd:"" help:"Show volumes: role, state and why, positions. Exits 3 when degraded, 4 when inconsistent."`
	Stop        StopCmd        `cmd:"" help:"Take a volume's device away at once and keep its log; add brings it back."`
	Del         DelCmd         `cmd:"" help:"End a volume: bring the peer level, empty the log into the disk, forget it. The disk then mounts without us."`
	Set         SetCmd         `cmd:"" help:"Change a volume's settings while it serves, for example mode=async; without settings show them."`
	Destage     DestageCmd     `cmd:"" help:"Empty a volume's log into its disk now; writes go on meanwhile."`
	Pause       PauseCmd       `cmd:"" help:"Make destage or resync stand still."`
	Resume      ResumeCmd      `cmd:"" help:"Let destage or resync go on."`
	Disconnect  DisconnectCmd  `cmd:"" help:"End the session with the peer, and make none until connect: to a primary the peer is away."`
	Connect     ConnectCmd     `cmd:"" help:"Take disconnect back."`
	ReplaceDisk ReplaceDiskCmd `cmd:"" help:"Put another disk in the data disk's place while the volume is in use: the peer stands in and fills it."`
	ReplaceLog  ReplaceLogCmd  `cmd:"" help:"Give a volume that lost its log another one, under the same block device."`
	Recover     RecoverCmd     `cmd:"" help:"Start a new server under a device whose server and supervisor are both gone."`
	Promote     PromoteCmd     `cmd:"" help:"Make this secondary the primary: its block device appears here."`
	Demote      DemoteCmd      `cmd:"" help:"Make this primary a secondary: its device goes, the peer is brought level and can be promoted."`

	Latency  LatencyCmd  `cmd:"" help:"Where the time of each request goes."`
	Metrics  MetricsCmd  `cmd:"" help:"What goes with add --metrics."`
	Features FeaturesCmd `cmd:"" help:"Show what this kernel's ublk driver and io_uring offer."`
	Key      KeyCmd      `cmd:"" help:"This machine's key, and the keys it trusts."`
	Log      LogCmd      `cmd:"" help:"Look at a log device offline."`
	Bench    BenchCmd    `cmd:"" help:"Targets for benchmarks and tests."`

	Supervise superviseCmd `cmd:"" hidden:""`
	Server    serverCmd    `cmd:"" hidden:""`
	ProbeDisk probeDiskCmd `cmd:"" hidden:""`
}

// exitError ends the program with a code and, unless empty, one line.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

func main() {
	var cli CLI
	parser := kong.Must(&cli,
		kong.Name("robib-ublk"),
		kong.Description("A block device that keeps a live copy of a disk on a second machine."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(code int) {
			if code != 0 {
				code = exitUsage
			}
			os.Exit(code)
		}))
	ctx, err := parser.Parse(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "robib-ublk: %v (see robib-ublk --help)\n", err)
		os.Exit(exitUsage)
	}
	os.Exit(report(ctx.Run(&cli)))
}

// report prints err as one line and chooses the exit code.
func report(err error) int {
	if err == nil {
		return exitOK
	}
	code := exitFailure
	var exit *exitError
	var usage *volume.UsageError
	switch {
	case errors.As(err, &exit):
		code = exit.code
	case errors.As(err, &usage):
		code = exitUsage
	}
	if err.Error() != "" {
		fmt.Fprintf(os.Stderr, "robib-ublk: %v\n", err)
	}
	return code
}
