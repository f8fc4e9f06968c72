package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/ublk"
)

// flags that the supervisor hands to the server.
type serving struct {
	Name       string `required:""`
	New        bool
	StartAlone bool
	AcceptDisk bool
	AcceptLog  bool
	Discard    bool
	Reattach   bool
}

func (s *serving) args(reattach bool) []string {
	a := []string{"server", "--name", s.Name}
	for _, f := range []struct {
		on   bool
		name string
	}{{s.New && !reattach, "--new"}, {s.StartAlone && !reattach, "--start-alone"}, {s.AcceptDisk && !reattach, "--accept-disk"}, {s.AcceptLog && !reattach, "--accept-log"}, {s.Discard && !reattach, "--discard"}, {s.Reattach || reattach, "--reattach"}} {
		if f.on {
			a = append(a, f.name)
		}
	}
	return a
}

// spec is what the supervisor runs with the files that it was given.
func (s *serving) spec(c *volume.Config, in supervise.Inherited) supervise.Spec {
	return supervise.Spec{Name: s.Name, Exe: self(), Args: s.args(false), Reattach: s.args(true), Disk: in.Disk, Log: in.Log, Ready: in.Ready, Logf: logf, Stderr: os.Stderr,
		Deadline: func() time.Duration { return volume.GiveUpAfter(s.Name) }, Probe: []string{"probe-disk"},
		Another: func(disk, log *os.File) (*os.File, *os.File) {
			c, disk, log = volume.Reopen(c, disk, log, logf)
			return disk, log
		}}
}

// start runs the supervisor, here or in the background, and shows what the server reports.
func start(cli *CLI, p *volume.Prepared, s serving, foreground bool) error {
	s.Name, s.New = p.Config.Name, p.New
	err := launch(cli, p, s, foreground)
	if err != nil {
		p.Close()
		waitReleased(p.Config.Disk)
	}
	if err != nil && p.New {
		// A volume that never served leaves nothing behind.
		p.Config.Forget()
		if p.Config.LogOwned {
			os.Remove(p.Config.Log)
		}
	}
	return err
}

func launch(cli *CLI, p *volume.Prepared, s serving, foreground bool) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	shown := make(chan error, 1)
	show := func() {
		rep, err := supervise.ReadReport(r)
		if err == nil && rep.Error != "" {
			err = errors.New(rep.Error)
		}
		if err == nil {
			err = cli.print(rep, func(out io.Writer) error { return printReport(out, p, rep) })
		}
		shown <- err
	}
	if foreground {
		go show()
		ctx, stop := interrupted()
		defer stop()
		err := supervise.Run(ctx, s.spec(p.Config, supervise.Inherited{Disk: p.Disk, Log: p.Log, Ready: w}))
		return errors.Join(err, <-shown)
	}
	cmd, err := background(s)
	if err != nil {
		return err
	}
	names := "ready=3"
	cmd.ExtraFiles = []*os.File{w}
	for _, f := range []struct {
		name string
		file *os.File
	}{{"disk", p.Disk}, {"log", p.Log}} {
		if f.file != nil {
			names += fmt.Sprintf(",%s=%d", f.name, 3+len(cmd.ExtraFiles))
			cmd.ExtraFiles = append(cmd.ExtraFiles, f.file)
		}
	}
	cmd.Env = append(os.Environ(), "ROBIB_FDS="+names)
	if err := cmd.Start(); err != nil {
		return errors.Join(err, w.Close())
	}
	w.Close()
	show()
	err = <-shown
	cmd.Process.Release()
	return err
}

// background makes the supervisor a session of its own, its output in a file.
func background(s serving) (*exec.Cmd, error) {
	if err := os.MkdirAll(volume.LogDir(), 0o755); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(volume.LogDir(), s.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	args := append([]string{"supervise"}, s.args(false)[1:]...)
	cmd := exec.Command(self(), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	return cmd, nil
}

func self() string {
	exe, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return exe
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("2006-01-02 15:04:05.000 ")+format+"\n", args...)
}

func printReport(w io.Writer, p *volume.Prepared, rep supervise.Report) error {
	c := p.Config
	if rep.Device != "" {
		fmt.Fprintf(w, "%s: live, %s of %s\n", rep.Device, volume.Bytes(c.DiskBytes), c.Disk)
	} else {
		fmt.Fprintf(w, "%s: serving with %s of %s\n", c.Name, volume.Bytes(c.DiskBytes), c.Disk)
	}
	for _, l := range append(p.Notes, rep.Lines...) {
		fmt.Fprintf(w, "\t%s\n", l)
	}
	return nil
}

// superviseCmd is the supervisor in the background; started by add, serve and recover only.
type superviseCmd struct{ serving }

// Run keeps one server alive.
func (s *superviseCmd) Run(*CLI) error {
	in, err := supervise.Receive()
	if err != nil {
		return err
	}
	os.Unsetenv("ROBIB_FDS")
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		logf("%s: no protection from the OOM killer: %v", s.Name, err)
	}
	ctx, stop := interrupted()
	defer stop()
	c, err := volume.LoadConfig(s.Name)
	if err != nil {
		return err
	}
	err = supervise.Run(ctx, s.spec(c, in))
	if err != nil {
		logf("%v", err)
	}
	return err
}

// probeDiskCmd asks a disk for its supervisor whether it answers.
type probeDiskCmd struct{}

// Run reads from the disk.
func (*probeDiskCmd) Run(*CLI) error { return supervise.Probe() }

// serverCmd is the process that serves one volume; started by its supervisor only.
type serverCmd struct{ serving }

// Run serves until told to stop.
func (s *serverCmd) Run(*CLI) error {
	notes := ublk.Process()
	in, err := supervise.Receive()
	if err != nil {
		return err
	}
	c, err := volume.LoadConfig(s.Name)
	if err != nil {
		return &exitError{supervise.ExitRefused, err.Error()}
	}
	code := volume.Run(volume.ServerOptions{Config: c, In: in, Reattach: s.Reattach, New: s.New, StartAlone: s.StartAlone, AcceptDisk: s.AcceptDisk, AcceptLog: s.AcceptLog, Discard: s.Discard, Notes: notes, Logf: logf})
	if code != 0 {
		return &exitError{code, ""}
	}
	return nil
}
