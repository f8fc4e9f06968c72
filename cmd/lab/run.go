package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// Machine are the flags of commands that boot one guest.
type Machine struct {
	Kernel string        `default:"7" help:"Kernel: a version prefix such as 6.12 or 7 (the newest Debian has), or the path of a vmlinuz-VERSION with its modules beside it."`
	SMP    int           `default:"2" help:"CPUs."`
	Mem    int           `default:"3072" help:"Memory in MiB."`
	Disk   []int64       `help:"Blank disks in MiB, /dev/vdb on (default: 512, 512, 128, 128)."`
	Limit  time.Duration `default:"30m" help:"How long the command may take."`
	Icount bool          `help:"Count instructions: one CPU, virtual time."`
	Single bool          `help:"Emulate all CPUs in one thread, for what patches the kernel's code while several run."`
	Put    []string      `help:"Files to put into the guest, HOST=GUEST." placeholder:"HOST=GUEST"`
	Tree   bool          `help:"Attach Go's own sources, read-only, at /tree."`
}

func (m *Machine) job(l *vm.Lab) (vm.Job, func(), error) {
	j, clean, err := job(l, m.Kernel)
	if err != nil {
		return j, clean, err
	}
	j.SMP, j.MemMiB, j.Limit, j.Icount, j.OneThread, j.Tree = m.SMP, m.Mem, m.Limit, m.Icount, m.Single, m.Tree
	if len(m.Disk) > 0 {
		j.Disks = nil
		for _, d := range m.Disk {
			j.Disks = append(j.Disks, d<<20)
		}
	}
	return j, clean, m.put(&j)
}

// RunCmd runs one command.
type RunCmd struct {
	Machine
	Command []string `arg:"" passthrough:"" help:"The command and its arguments."`
}

// Run boots, runs, and ends with the command's own exit code.
func (r *RunCmd) Run(*CLI) error {
	l, err := vm.New()
	if err != nil {
		return err
	}
	j, clean, err := r.job(l)
	defer clean()
	if err != nil {
		return err
	}
	j.Args = r.Command
	if j.Args[0] == "--" {
		j.Args = j.Args[1:]
	}
	return finish(l.Run(j))
}

func finish(code int, err error) error {
	if err == nil && code != 0 {
		err = exitCode(code)
	}
	return err
}

// ShellCmd opens a shell.
type ShellCmd struct{ Machine }

// Run connects the terminal to a shell in the guest.
func (s *ShellCmd) Run(*CLI) error {
	l, err := vm.New()
	if err != nil {
		return err
	}
	j, clean, err := s.job(l)
	defer clean()
	if err != nil {
		return err
	}
	j.Args, j.In = []string{"/bin/sh", "-i"}, os.Stdin
	fd := int(os.Stdin.Fd())
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		raw := *t
		raw.Lflag &^= unix.ICANON | unix.ECHO
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
			return err
		}
		defer unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	return finish(l.Run(j))
}
