package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
)

// LogDumpCmd prints what a log holds, segment by segment.
type LogDumpCmd struct {
	Path    string `arg:"" help:"The log device or file."`
	Records bool   `help:"Each record too."`
	From    uint64 `help:"Begin with this LSN." placeholder:"LSN"`
	Damaged bool   `help:"Go on behind damaged segments."`
}

type dumpRecord struct {
	Kind   string `json:"kind"`
	Offset int64  `json:"offset_bytes"`
	Length int64  `json:"length_bytes"`
}

type dumpSegment struct {
	LSN         uint64       `json:"lsn"`
	Pos         uint64       `json:"position"`
	Bytes       int          `json:"bytes"`
	Term        uint64       `json:"term"`
	Incarnation string       `json:"incarnation"`
	Durable     uint64       `json:"durable_through_lsn"`
	Time        string       `json:"sealed_at"`
	Hash        string       `json:"hash"`
	Records     int          `json:"records"`
	List        []dumpRecord `json:"record_list,omitempty"`
}

var kindNames = map[seglog.Kind]string{seglog.Data: "data", seglog.Discard: "discard", seglog.WriteZeroes: "write-zeroes", seglog.Bypass: "bypass", seglog.Mark: "mark"}

// Run reads the log; JSON output is one document a segment.
func (l *LogDumpCmd) Run(cli *CLI) error {
	file, err := openLog(l.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	err = volume.WithDisk(file, func(d blk.Device, drive blk.Drive) error {
		out := json.NewEncoder(os.Stdout)
		if cli.Pretty {
			out.SetIndent("", "  ")
		}
		_, lost, err := seglog.Walk(d, drive, l.Damaged, func(s *seglog.Segment) error {
			if s.LSN < l.From {
				return nil
			}
			v := dumpSegment{LSN: s.LSN, Pos: s.Pos, Bytes: s.Bytes, Term: s.Term.Number, Incarnation: fmt.Sprintf("%016x", s.Incarnation), Durable: s.Durable,
				Time: time.Unix(0, s.Wall).UTC().Format(time.RFC3339Nano), Hash: fmt.Sprintf("%016x", s.Hash), Records: s.Records}
			if l.Records {
				for i := range s.Records {
					r := s.Record(i)
					v.List = append(v.List, dumpRecord{kindNames[r.Kind], r.Offset, r.Length})
				}
			}
			if cli.JSON || cli.Pretty {
				return out.Encode(v)
			}
			fmt.Printf("%d  %d bytes at %d, term %d, durable through %d, %s, %d records\n", v.LSN, v.Bytes, v.Pos, v.Term, v.Durable, v.Time, v.Records)
			for _, r := range v.List {
				fmt.Printf("\t%s  %d  %d\n", r.Kind, r.Offset, r.Length)
			}
			return nil
		})
		for _, x := range lost {
			fmt.Fprintf(os.Stderr, "robib-ublk: segments %d to %d are damaged\n", x.From, x.To)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", l.Path, err)
	}
	return nil
}

// LogRescueCmd writes what can be read of a log to its data disk.
type LogRescueCmd struct {
	Path  string `arg:"" help:"The log device or file."`
	Disk  string `required:"" help:"The data disk that the log belongs to." placeholder:"PATH"`
	Write bool   `help:"Really write; without it only what would be done is said."`
}

// Run reports what can be rescued and what is lost, and writes only when told to.
func (l *LogRescueCmd) Run(cli *CLI) error {
	disk, err := filedev.OpenExclusive(l.Disk)
	if err != nil {
		return err
	}
	defer disk.Close()
	log, err := openLog(l.Path)
	if err != nil {
		return err
	}
	defer log.Close()
	var r dcd.Rescued
	err = volume.WithDisks([]*os.File{log, disk}, func(d []blk.Device, drive blk.Drive) error {
		to := d[1]
		if err := l.matches(d[0], to.Info(), drive); err != nil {
			return err
		}
		if !l.Write {
			to = nil
		}
		r, err = dcd.Rescue(d[0], to, drive)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", l.Path, err)
	}
	doc := struct {
		dcd.Rescued
		Written bool `json:"written"`
	}{r, l.Write}
	return cli.print(doc, func(w io.Writer) error {
		verb := "can be written"
		if l.Write {
			verb = "were written"
		}
		fmt.Fprintf(w, "%s: %d segments, LSN %d to %d: %s of data and %s of zeros %s to %s\n", l.Path, r.Segments, r.First, r.Last, volume.Bytes(r.Bytes), volume.Bytes(r.Zeroed), verb, l.Disk)
		for _, x := range r.Lost {
			fmt.Fprintf(w, "\tLOST  segments %d to %d: what was written with them is not on the disk, what came later is\n", x.From, x.To)
		}
		if len(r.Lost) == 0 {
			fmt.Fprintln(w, "\tnothing is lost")
		}
		if !l.Write {
			fmt.Fprintln(w, "\tnothing was changed; --write does it")
		} else if len(r.Lost) > 0 {
			fmt.Fprintln(w, "\tcheck the file system (fsck) before you use it")
		}
		return nil
	})
}

// matches refuses a disk that the log was not made for.
func (l *LogRescueCmd) matches(log blk.Device, disk blk.Info, drive blk.Drive) error {
	s, err := seglog.Probe(log, drive)
	if err != nil {
		return err
	}
	if s.DiskIdentity != "" && s.DiskIdentity != disk.Identity || disk.SizeBytes < s.DiskBytes {
		return fmt.Errorf("it belongs to disk %s (%s), not to %s (%s)", s.DiskIdentity, volume.Bytes(s.DiskBytes), l.Disk, disk.Identity)
	}
	return nil
}
