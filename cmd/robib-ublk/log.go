package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// LogCmd looks at log devices.
type LogCmd struct {
	Check  LogCheckCmd  `cmd:"" help:"Verify every checksum of a log, of its summaries and its dirty map, and say what it holds; changes nothing."`
	Dump   LogDumpCmd   `cmd:"" help:"Print every segment of a log, and with --records what it holds."`
	Kept   LogKeptCmd   `cmd:"" help:"List what was given up of logs (--discard-my-data, a tail that was cut), and with --records each write."`
	Rescue LogRescueCmd `cmd:"" help:"Write what can be read of a damaged log to its data disk; without --write say what that is."`
}

// LogCheckCmd checks one log.
type LogCheckCmd struct {
	Path string `arg:"" help:"The log device or file."`
}

// openLog opens a log that is only looked at.
func openLog(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0) }

type checked struct {
	Path     string           `json:"path"`
	Volume   string           `json:"volume_uuid"`
	Disk     string           `json:"disk_identity"`
	Size     int64            `json:"disk_bytes"`
	Ring     int64            `json:"ring_bytes"`
	Term     uint64           `json:"term"`
	Marks    string           `json:"marks"`
	Findings []seglog.Finding `json:"findings"`
	seglog.Summary
	Error string `json:"error,omitempty"`
}

// Run reads the log.
func (l *LogCheckCmd) Run(cli *CLI) error {
	f, err := openLog(l.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := checked{Path: l.Path, Findings: []seglog.Finding{}}
	err = volume.WithDisk(f, func(d blk.Device, drive blk.Drive) (err error) {
		r.Summary, err = seglog.Check(d, drive, func(f seglog.Finding) { r.Findings = append(r.Findings, f) })
		return err
	})
	s := &r.Super
	if s.Log == (seglog.UUID{}) && err != nil {
		return fmt.Errorf("%s: %w", l.Path, err)
	}
	r.Volume, r.Disk, r.Size, r.Ring, r.Term, r.Marks = s.Volume.String(), s.DiskIdentity, s.DiskBytes, s.RingBytes, s.Term.Number, s.Marks.String()
	if err != nil {
		r.Error = err.Error()
	}
	perr := cli.print(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: log of volume %s\n", l.Path, r.Volume)
		fmt.Fprintf(w, "\tdisk  %s  %s\n\tterm  %d\n\tmarks  %s\n", r.Disk, volume.Bytes(r.Size), r.Term, r.Marks)
		fmt.Fprintf(w, "\tsegments  %d, LSN %d to %d, %d records\n", r.Segments, r.First, r.Last, r.Records)
		fmt.Fprintf(w, "\tused  %s of %s, at most %s not destaged\n", volume.Bytes(r.UsedBytes), volume.Bytes(r.Ring), volume.Bytes(r.DirtyBytes))
		fmt.Fprintf(w, "\tsummaries  %d pages, of %d segments\n", r.SummaryPages, r.Summarized)
		if r.DirtyMapPages > 0 {
			fmt.Fprintf(w, "\tdirty_map  %d pages, the peer lacks %s by it\n", r.DirtyMapPages, volume.Bytes(r.PeerLacksBytes))
		}
		for _, f := range r.Findings {
			word := "note"
			if f.Bad {
				word = "BAD"
			}
			fmt.Fprintf(w, "\t%s  %s\n", word, f.Text)
		}
		if err == nil {
			fmt.Fprintln(w, "\tok")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s cannot be opened as it is: %s", l.Path, advice(err, s, l.Path))
	}
	return perr
}

// advice says what to do about a log that cannot be opened.
func advice(err error, s *seglog.Super, path string) string {
	var bad *seglog.CorruptError
	switch {
	case errors.Is(err, seglog.ErrReadError):
		return "the device does not give back what was written; copy what can be read to a good one (ddrescue, say) and try that, or promote the peer"
	case errors.As(err, &bad) && s.Marks&seglog.HasPeer != 0:
		return fmt.Sprintf("start the volume (`robib-ublk add` or `serve` with its --name) while the peer is up, and segment %d is fetched from there; or promote the peer; or, without it, `robib-ublk log rescue %s --disk DISK` says what can be saved", bad.LSN, path)
	case errors.As(err, &bad):
		return fmt.Sprintf("there is no peer that may have segment %d: `robib-ublk log rescue %s --disk DISK` says what can be saved and what is lost, and with --write saves it", bad.LSN, path)
	}
	return "restore it from a copy, or start from the peer's"
}
