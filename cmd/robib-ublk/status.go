package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/mirror/wire"
)

// ListCmd lists volumes.
type ListCmd struct{}

// Run shows one line a volume.
func (*ListCmd) Run(cli *CLI) error {
	all, err := statuses("")
	if err != nil {
		return err
	}
	return cli.print(map[string]any{"volumes": all}, func(w io.Writer) error {
		for _, s := range all {
			dev := s.Device
			if dev == "" {
				dev = "-"
			}
			fmt.Fprintf(w, "%s: %s %s %s  %s\n", s.Name, s.Role, dev, s.Disk, s.State)
		}
		return nil
	})
}

// StatusCmd shows volumes in full.
type StatusCmd struct {
	Name string `arg:"" optional:"" help:"The volume; without it all."`
}

// Run shows, and exits 3 when one is degraded, 4 when one is inconsistent.
func (s *StatusCmd) Run(cli *CLI) error {
	all, err := statuses(s.Name)
	if err != nil {
		return err
	}
	var doc any = map[string]any{"volumes": all}
	if s.Name != "" {
		doc = all[0]
	}
	err = cli.print(doc, func(w io.Writer) error {
		for i := range all {
			printStatus(w, &all[i])
		}
		return nil
	})
	code := exitOK
	for _, v := range all {
		switch {
		case v.Inconsistent:
			code = exitInconsistent
		case v.Degraded && code == exitOK:
			code = exitDegraded
		}
	}
	if err == nil && code != exitOK {
		err = &exitError{code, ""}
	}
	return err
}

// statuses asks the server of each volume, or of one.
func statuses(name string) ([]volume.Status, error) {
	var configs []*volume.Config
	if name != "" {
		c, err := volume.LoadConfig(name)
		if err != nil {
			return nil, err
		}
		configs = append(configs, c)
	} else {
		var err error
		if configs, err = volume.Configs(); err != nil {
			return nil, err
		}
	}
	all := []volume.Status{}
	for _, c := range configs {
		var st volume.Status
		err := control.Status(c.Name, &st)
		if errors.Is(err, control.ErrNotRunning) {
			st, err = volume.Stopped(c), nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, nil
}

// printCatchUp shows how far the peer is behind, unless it lacks only what is under way.
func printCatchUp(row func(key, format string, args ...any), s *volume.Status) {
	if s.CatchUpReason == "" {
		return
	}
	row("catch_up", "%s", s.CatchUpReason)
	text := fmt.Sprintf("%s, %.1f s", volume.Bytes(s.BacklogBytes), s.BacklogSeconds)
	if s.Connected {
		text += fmt.Sprintf("; %s/s shipped, %s/s written", volume.Bytes(int64(s.ShipRate)), volume.Bytes(int64(s.WriteRate)))
	}
	switch {
	case s.CannotKeepUp:
		text += "; CANNOT KEEP UP: writes come faster than they are shipped"
	case s.CatchUpSeconds != nil:
		text += fmt.Sprintf("; level in %.0f s", *s.CatchUpSeconds)
	}
	row("backlog", "%s", text)
}

func printStatus(w io.Writer, s *volume.Status) {
	id := "-"
	if s.DeviceID >= 0 {
		id = fmt.Sprint(s.DeviceID)
	}
	fmt.Fprintf(w, "%s: %s %s  %s\n", id, s.Role, s.Name, s.State)
	row := func(key, format string, args ...any) { fmt.Fprintf(w, "\t%s  %s\n", key, fmt.Sprintf(format, args...)) }
	if s.Reason != "" {
		row("reason", "%s", s.Reason)
	}
	if s.Device != "" {
		row("device", "%s", s.Device)
	}
	row("disk", "%s  %s", s.Disk, volume.Bytes(s.DiskBytes))
	row("log", "%s  %s, %s in use, at most %s not destaged", s.Log, volume.Bytes(s.LogBytes), volume.Bytes(s.LogUsedBytes), volume.Bytes(s.DirtyBytes))
	if s.State == "stopped" {
		return
	}
	switch {
	case s.Remote != "":
		row("remote", "%s  mode %s", s.Remote, s.Mode)
		if s.RemoteInUse != "" {
			row("in_use", "%s  connected to %s", s.RemoteInUse, s.Peer)
		}
	case s.Listen != "":
		row("listen", "%s  mode %s", s.Listen, s.Mode)
	}
	if s.Remote != "" || s.Listen != "" {
		up := "down"
		if s.Connected {
			up = "up"
		}
		if !s.Encrypted {
			row("encryption", "OFF: what is written crosses the network in the clear (--encrypt=off)")
		}
		if w := volume.CertificateWarning(s.CertificateEnd, time.Now()); w != "" {
			row("certificate", "%s", w)
		}
		row("session", "%s for %.0f s, round trip %.2f ms, heartbeat %g s, dead after %g s", up, s.SinceSeconds, s.RoundTripMicros/1e3, s.HeartbeatSeconds, s.PeerDeadSeconds)
		s.Network.Each(func(connection string, t *wire.TCP) {
			row("network", connection+" connection: TCP round trip %.2f ms, least %.2f ms; %s not acknowledged, %d segments sent again", float64(t.RTTNanos)/1e6, float64(t.MinRTTNanos)/1e6, volume.Bytes(t.SendQueueBytes), t.Retransmits)
		})
		switch {
		case s.Control:
			row("control", "up: heartbeats wait behind no data")
		case s.Connected:
			row("control", "down, heartbeats go with the data: %s", s.ControlReason)
		}
		limit := "no limit"
		if s.RateLimit > 0 {
			limit = "at most " + volume.Bytes(s.RateLimit) + "/s"
		}
		how := "compression " + s.Compress
		if s.Compress != "off" && s.Connected && !s.Compressing {
			how += ", which the peer cannot take"
		}
		row("sent", "%s for %s of data; %s of zeros left out, %s, %s", volume.Bytes(int64(s.SentBytes)), volume.Bytes(int64(s.RawBytes)), volume.Bytes(int64(s.ElidedBytes)), how, limit)
		if s.LastError != "" && !s.Connected {
			row("last_error", "%s", s.LastError)
		}
	}
	printCatchUp(row, s)
	if s.RefillTotal > 0 {
		row("refill", "%.0f %%: %s of %s are on the new disk", float64(s.RefillBytes)*100/float64(s.RefillTotal), volume.Bytes(s.RefillBytes), volume.Bytes(s.RefillTotal))
	}
	if s.SyncPercent > 0 {
		row("full_sync", "%.0f %%, %s", s.SyncPercent, s.SyncKind)
	}
	if s.ResyncSent+s.ResyncCompared > 0 {
		row("resync", "%s sent; %s compared by hash, of which %s were equal and not sent", volume.Bytes(int64(s.ResyncSent)), volume.Bytes(int64(s.ResyncCompared)), volume.Bytes(int64(s.ResyncSkipped)))
	}
	row("cache", "%.0f %% of the log in use (destage from %d %%, throttled from %d %%), oldest write not destaged %.0f s old", s.OccupancyPercent, s.LowWater, s.HighWater, s.OldestSeconds)
	if len(s.QueueRequests) > 1 {
		row("queues", "%d, requests of each: %v", len(s.QueueRequests), s.QueueRequests)
	}
	if s.WriteCache {
		row("write_cache", "volatile: a write is acknowledged from RAM and safe once flushed")
	}
	row("destage", "%s written, %.0f %% of writes spared, %s/s of log given back, empty in %.0f s", volume.Bytes(int64(s.DestagedBytes)), s.WriteReduction, volume.Bytes(int64(s.FreedPerSecond)), s.EmptySeconds)
	if s.BypassBytes > 0 {
		row("bypass", "sequential runs of more than %s go past the log: %s did", volume.Bytes(s.BypassBytes), volume.Bytes(int64(s.BypassedBytes)))
	}
	if l := &s.Limits; s.Remote != "" || s.Listen != "" {
		row("limits", "disk deadline %g s, start wait %g s, re-attach %g s, remote wait %g s, connect %g s, back-off %g to %g s, other paths %g s", l.DiskDeadline, l.StartWait, l.Reattach, l.RemoteWait, l.Connect, l.Backoff, l.BackoffTo, l.OtherPaths)
	} else {
		row("limits", "disk deadline %g s", l.DiskDeadline)
	}
	if len(s.Paused) > 0 {
		row("paused", "by its user: %s", strings.Join(s.Paused, ", "))
	}
	row("commits", "%d, %.1f/s, %.1f requests each, %.0f us", s.Commits, s.CommitsPerS, s.GatherSize, s.CommitMicros)
	row("reads", "%.0f %% not from the disk: RAM %d, log %d, zeros %d, disk %d, peer %d", s.HitPercent, s.ReadRAM, s.ReadLog, s.ReadZero, s.ReadDisk, s.PeerReads)
	row("lsn", "sealed %d, durable %d, destaged %d", s.Sealed, s.Durable, s.Destaged)
	if s.Role == "primary" && (s.Remote != "" || s.Listen != "") {
		row("peer_lsn", "shipped %d, received %d, durable %d, lag %d segments", s.Shipped, s.Received, s.RemoteDurable, s.LagSegments)
		row("peer_reads", "%d served by the peer", s.PeerReads)
	}
	if s.DamagedReads > 0 {
		row("log_damaged", "%d reads found segments of the log damaged; the peer served them, or they failed: replace the log device", s.DamagedReads)
	}
	if s.Latency != "" {
		row("latency", "%s", s.Latency)
	}
	if s.Metrics != "" {
		row("metrics", "%s", s.Metrics)
	}
	row("volume", "%s  term %d  marks %s", s.Volume, s.Term, s.Marks)
	row("server_pid", "%d  state changes in %s", s.ServerPID, logFile(s.Name))
}
