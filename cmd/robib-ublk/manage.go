package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
)

// StopCmd takes a volume's device away.
type StopCmd struct {
	Name string `arg:"" help:"The volume."`
}

// Run asks the volume's server.
func (s *StopCmd) Run(cli *CLI) error {
	if err := do(s.Name, "stop", control.Args{}, nil); err != nil {
		return err
	}
	if c, err := volume.LoadConfig(s.Name); err == nil {
		waitReleased(c.Disk)
	}
	return cli.print(map[string]string{"stopped": s.Name}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: stopped; its log is kept\n", s.Name)
		return err
	})
}

// DelCmd ends a volume.
type DelCmd struct {
	Name  string `arg:"" help:"The volume."`
	Force bool   `help:"Also when the peer is away; and when the volume is stopped: its log, which may hold writes that the disk lacks, is then given up."`
}

// Run asks the volume's server, and shows progress.
func (d *DelCmd) Run(cli *CLI) error {
	c, err := volume.LoadConfig(d.Name)
	if err != nil {
		return err
	}
	if err := do(d.Name, "del", control.Args{Force: d.Force}, nil); err != nil {
		switch {
		case !errors.Is(err, control.ErrNotRunning):
			return err
		case !d.Force:
			return fmt.Errorf("%s is stopped, and its log may hold writes: start it first (`robib-ublk add --name %s` or serve), then del; --force gives them up", d.Name, d.Name)
		}
		return d.forget(cli, c)
	}
	waitReleased(c.Disk)
	return cli.print(map[string]string{"deleted": d.Name, "disk": c.Disk}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: ended; %s alone holds everything\n", d.Name, c.Disk)
		return err
	})
}

// forget ends a volume that cannot be started any more. Its log is left as it is.
func (d *DelCmd) forget(cli *CLI, c *volume.Config) error {
	if err := needRoot(); err != nil {
		return err
	}
	f, err := filedev.OpenExclusive(c.Disk)
	if errors.Is(err, filedev.ErrInUse) {
		return fmt.Errorf("%s does not answer, but disk %s is in use: `robib-ublk recover %s` first", d.Name, c.Disk, d.Name)
	}
	if err == nil {
		f.Close()
	}
	if err := c.Forget(); err != nil {
		return err
	}
	return cli.print(map[string]string{"forgotten": d.Name, "disk": c.Disk, "log": c.Log}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: forgotten; what only log %s holds is not on %s (`robib-ublk log rescue %s --disk %s` writes it there)\n", d.Name, c.Log, c.Disk, c.Log, c.Disk)
		return err
	})
}

// releaseWait is how long stop and del wait for the server's end.
const releaseWait = 30 * time.Second

// waitReleased returns when the ended server and its supervisor have let go of the disk, so
// that what the user types next finds it free.
func waitReleased(disk string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(releaseWait); time.Now().Before(end); <-tick.C {
		f, err := filedev.OpenExclusive(disk)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, filedev.ErrInUse) {
			return
		}
	}
}

// SetCmd changes settings online.
type SetCmd struct {
	Name string   `arg:"" help:"The volume."`
	Set  []string `arg:"" optional:"" name:"setting" help:"KEY=VALUE: mode, on-disconnect, remote, peer-key, rate-limit, compress, heartbeat, peer-dead, start-wait, remote-wait, disk-deadline, destage, resync, link, latency, low-water, high-water, bypass, ordered, metrics."`
}

// Run changes what is said, and shows all settings.
func (s *SetCmd) Run(cli *CLI) error {
	want := map[string]string{}
	for _, kv := range s.Set {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || v == "" {
			return volume.Usagef("%q: want KEY=VALUE, for example mode=async", kv)
		}
		want[k] = v
	}
	all, err := change(s.Name, want)
	if err != nil {
		return err
	}
	return cli.print(all, func(w io.Writer) error {
		for _, x := range volume.SettingList {
			fmt.Fprintf(w, "%s=%s  # %s\n", x.Name, all[x.Name], x.Help)
		}
		return nil
	})
}

// change asks the volume's server to change settings, and gives all of them as they are then; those of
// a stopped volume count from its next start.
func change(name string, want map[string]string) (map[string]string, error) {
	c, err := volume.LoadConfig(name)
	if err != nil {
		return nil, err
	}
	n, err := c.Change(want)
	if err != nil {
		return nil, err
	}
	if len(want) > 0 {
		err := do(name, "set", control.Args{Set: want}, nil)
		if errors.Is(err, control.ErrNotRunning) {
			err = n.Save()
		}
		if err != nil {
			return nil, err
		}
	}
	return n.Get(), nil
}

// DestageCmd empties a volume's log.
type DestageCmd struct {
	Name string `arg:"" help:"The volume."`
}

// Run asks the volume's server, and shows progress.
func (d *DestageCmd) Run(cli *CLI) error {
	var r struct {
		LSN   uint64 `json:"destaged_lsn"`
		Bytes int64  `json:"written_bytes"`
	}
	if err := do(d.Name, "destage", control.Args{}, &r); err != nil {
		return err
	}
	return cli.print(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: the disk holds everything up to LSN %d, %s written\n", d.Name, r.LSN, volume.Bytes(r.Bytes))
		return err
	})
}

func do(name, command string, a control.Args, result any) error {
	if _, err := volume.LoadConfig(name); err != nil {
		return err
	}
	ctx, stop := interrupted()
	defer stop()
	return control.Do(ctx, name, command, a, func(p string) { fmt.Fprintln(os.Stderr, p) }, result)
}

// RecoverCmd starts a new server where supervisor and server are both gone.
type RecoverCmd struct {
	Name       string `arg:"" help:"The volume."`
	StartAlone bool   `help:"Serve although the peer cannot be asked whether it was promoted or has newer writes; also where a server runs and waits for it."`
}

// recoverWait is how long a dead server's last I/O may keep disk and log busy.
const recoverWait = 60 * time.Second

// Run opens disk and log anew, which proves that nobody else has them.
func (r *RecoverCmd) Run(cli *CLI) error {
	c, err := volume.LoadConfig(r.Name)
	if err != nil {
		return err
	}
	if err := needRoot(); err != nil {
		return err
	}
	var st volume.Status
	if err := control.Status(r.Name, &st); err == nil {
		if r.StartAlone && st.State == mirror.StateWaiting {
			return r.alone(cli)
		}
		return fmt.Errorf("%s: its server runs (pid %d): nothing to recover", r.Name, st.ServerPID)
	}
	p := &volume.Prepared{Config: c}
	defer p.Close()
	for _, f := range []struct {
		path string
		file **os.File
	}{{c.Disk, &p.Disk}, {c.Log, &p.Log}} {
		if *f.file, err = openFreed(f.path); err != nil {
			return err
		}
	}
	return launch(cli, p, serving{Name: r.Name, Reattach: true, StartAlone: r.StartAlone}, false)
}

// alone lets the server that runs serve without its peer.
func (r *RecoverCmd) alone(cli *CLI) error {
	if err := do(r.Name, "start-alone", control.Args{}, nil); err != nil {
		return err
	}
	return cli.print(map[string]string{"starts_alone": r.Name}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: serves as soon as its peer turns out to be away\n", r.Name)
		return err
	})
}

// openFreed opens exclusively, and waits while a dead server's I/O still holds the device.
func openFreed(path string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), recoverWait)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := filedev.OpenExclusive(path)
		if !errors.Is(err, filedev.ErrInUse) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (for %v: is its supervisor still there? `robib-ublk status` says)", err, recoverWait)
		case <-tick.C:
		}
	}
}

// logFile is where a volume's state changes are written.
func logFile(name string) string { return filepath.Join(volume.LogDir(), name+".log") }
