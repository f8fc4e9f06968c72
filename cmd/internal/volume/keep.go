package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror/wire"
)

// What of a log is given up is kept in the state directory: a file for each time, its segments one behind
// the other as they were in the log.
const keptSuffix = ".segments"

func keptDir(name string) string { return filepath.Join(State(), "cut", name) }

// keeper writes one such file.
type keeper struct {
	f *os.File
}

// keep takes a segment that is about to be given up; nil: that was all, and it is durable on return. After
// an error nothing is kept.
func (k *stack) keep(raw []byte) (err error) {
	x := &k.kept
	defer func() {
		if err != nil && x.f != nil {
			err = errors.Join(err, x.f.Close(), os.Remove(x.f.Name()))
			x.f = nil
		}
	}()
	if raw == nil {
		return x.finish()
	}
	if x.f == nil {
		s, err := seglog.ParseHeader(raw, len(raw))
		if err != nil {
			return err
		}
		dir := keptDir(k.s.conf().Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if x.f, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("%d-%d-%d.new", time.Now().UnixNano(), s.Term.Number, s.LSN)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
	}
	_, err = x.f.Write(raw)
	return err
}

func (x *keeper) finish() error {
	if x.f == nil {
		return nil
	}
	path := x.f.Name()
	if err := x.f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path, strings.TrimSuffix(path, ".new")+keptSuffix); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	err = errors.Join(err, x.f.Close())
	x.f = nil
	return err
}

// Kept is a tail of a log that was given up.
type Kept struct {
	Name     string       `json:"name"`
	Path     string       `json:"path"`
	At       string       `json:"given_up_at"`
	Volume   string       `json:"volume_uuid"`
	Term     uint64       `json:"term"` // of the newest segment
	First    uint64       `json:"first_lsn"`
	Last     uint64       `json:"last_lsn"`
	Sealed   string       `json:"last_sealed_at"`
	Segments int          `json:"segments"`
	Records  int          `json:"records"`
	Bytes    int64        `json:"data_bytes"`
	Error    string       `json:"error,omitempty"` // what keeps the rest of the file from being read
	List     []KeptRecord `json:"record_list,omitempty"`
}

// KeptRecord is one write of it. The data of one that has any lies in the file as it is.
type KeptRecord struct {
	LSN    uint64      `json:"lsn"`
	Kind   seglog.Kind `json:"-"`
	Word   string      `json:"kind"`
	Offset int64       `json:"offset_bytes"` // on the disk
	Length int64       `json:"length_bytes"`
	At     int64       `json:"file_offset_bytes,omitempty"` // of the data
}

// ListKept gives what was given up of a volume's log, or of every volume's, oldest first, with each record or not.
func ListKept(name string, records bool) ([]Kept, error) {
	list := []Kept{}
	if name == "" {
		name = "*"
	} else if err := CheckName(name); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(keptDir(name), "*"+keptSuffix))
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		k, err := readKept(p, records)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, nil
}

// readKept reads one file as far as it is good.
func readKept(path string, records bool) (Kept, error) {
	k := Kept{Name: filepath.Base(filepath.Dir(path)), Path: path}
	var nanos int64
	if _, err := fmt.Sscanf(filepath.Base(path), "%d-", &nanos); err == nil {
		k.At = time.Unix(0, nanos).UTC().Format(time.RFC3339)
	}
	f, err := os.Open(path)
	if err != nil {
		return k, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, wire.MaxBody)
	for at := int64(0); ; {
		b, err := r.Peek(wire.MaxBody)
		if len(b) == 0 && errors.Is(err, io.EOF) {
			return k, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return k, fmt.Errorf("%s: %w", path, err)
		}
		s, err := seglog.Parse(b, len(b))
		if err != nil {
			k.Error = err.Error()
			return k, nil
		}
		if k.Segments == 0 {
			k.First, k.Volume = s.LSN, s.Volume.String()
		}
		k.add(&s, at, records)
		at += int64(s.Bytes)
		if _, err := r.Discard(s.Bytes); err != nil {
			return k, fmt.Errorf("%s: %w", path, err)
		}
	}
}

func (k *Kept) add(s *seglog.Segment, at int64, records bool) {
	k.Segments++
	k.Records += s.Records
	k.Last, k.Term, k.Sealed = s.LSN, s.Term.Number, time.Unix(0, s.Wall).UTC().Format(time.RFC3339)
	for i := range s.Records {
		r := s.Record(i)
		x := KeptRecord{LSN: s.LSN, Kind: r.Kind, Offset: r.Offset, Length: r.Length}
		if r.Kind == seglog.Data {
			k.Bytes += r.Length
			x.At = at + int64(r.At)
		}
		if records {
			k.List = append(k.List, x)
		}
	}
}
