package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// CLI is the grammar; each command lives in a file of its own.
type CLI struct {
	Demo  DemoCmd  `cmd:"" help:"Show what robib-ublk does, for real, in a virtual machine."`
	Test  TestCmd  `cmd:"" help:"Run all tests: in process on this machine, then in virtual machines on kernel 6.12 and the newest 7.x."`
	Run   RunCmd   `cmd:"" help:"Run a command in a virtual machine."`
	Shell ShellCmd `cmd:"" help:"Open a shell in a virtual machine."`
	Exec  ExecCmd  `cmd:"" help:"Run a test binary in a virtual machine: go test -exec 'go run ./cmd/lab exec --' PACKAGE."`

	Bench BenchCmd `cmd:"" help:"Measure a device in a virtual machine that counts instructions as time, beside the bare disk."`

	GuestDemo  GuestDemoCmd  `cmd:"" hidden:""`
	GuestBench GuestBenchCmd `cmd:"" hidden:""`
	GuestSoak  GuestSoakCmd  `cmd:"" hidden:""`
}

// exitCode ends the program with a command's own exit code.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	if vm.IsGuest() {
		vm.Guest()
		return
	}
	var cli CLI
	parser := kong.Must(&cli, kong.Name("lab"), kong.Description("The development runner of robib-ublk."), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	ctx, err := parser.Parse(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v (see lab --help)\n", err)
		os.Exit(2)
	}
	err = ctx.Run(&cli)
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
}
