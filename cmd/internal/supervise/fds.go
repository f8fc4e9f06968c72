package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fdsEnv names the inherited descriptors to the child: "pipe=3,ready=4,disk=5".
const fdsEnv = "ROBIB_FDS"

// diedEnv is Inherited.Died.
const diedEnv = "ROBIB_DIED"

// Inherited is what a server gets from its supervisor: descriptors, any of which may be nil.
type Inherited struct {
	Pipe  *os.File // write end: register it in every disk ring, then Close it
	Ready *os.File // where the server reports that it serves
	Disk  *os.File
	Log   *os.File

	// Serves takes one byte when the server begins to serve: see Served.
	Serves *os.File
	// Died is when the newest server that served was found dead, in ns of Boottime; 0: none before this one has.
	Died int64
}

// Served tells the supervisor that this server serves. To be called once.
func (in *Inherited) Served() error {
	if in.Serves == nil {
		return nil
	}
	_, err := in.Serves.Write([]byte{1})
	err = errors.Join(err, in.Serves.Close())
	in.Serves = nil
	return err
}

// Boottime is the time since the machine booted, in ns; it goes on while the machine sleeps.
func Boottime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // every Linux has it
	}
	return t.Nano()
}

// passed orders the descriptors for exec: ExtraFiles[i] becomes descriptor 3+i.
type passed struct {
	names []string
	files []*os.File
}

func (p *passed) add(name string, f *os.File) {
	if f != nil {
		p.names, p.files = append(p.names, name), append(p.files, f)
	}
}

func (p *passed) env() string {
	var b strings.Builder
	for i, n := range p.names {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%d", n, 3+i)
	}
	return fdsEnv + "=" + b.String()
}

// Receive takes over the descriptors the supervisor passed. The environment variable stays,
// because a server re-executes itself once (PR_SET_IO_FLUSHER) and needs it again.
func Receive() (Inherited, error) {
	var in Inherited
	v := os.Getenv(fdsEnv)
	if v == "" {
		return in, errors.New("no descriptors were passed: this command is started by its supervisor, not by hand")
	}
	for part := range strings.SplitSeq(v, ",") {
		name, num, _ := strings.Cut(part, "=")
		fd, err := strconv.Atoi(num)
		if err != nil || fd < 3 {
			return in, fmt.Errorf("%s: bad entry %q", fdsEnv, part)
		}
		f := os.NewFile(uintptr(fd), name)
		switch name {
		case "serves":
			in.Serves = f
		case "pipe":
			in.Pipe = f
		case "ready":
			in.Ready = f
		case "disk":
			in.Disk = f
		case "log":
			in.Log = f
		default:
			return in, fmt.Errorf("%s: unknown descriptor %q", fdsEnv, name)
		}
	}
	if d := os.Getenv(diedEnv); d != "" {
		n, err := strconv.ParseInt(d, 10, 64)
		if err != nil {
			return in, fmt.Errorf("%s: %w", diedEnv, err)
		}
		in.Died = n
	}
	return in, nil
}

// Report is what a server tells the process that waits for it, one JSON line.
type Report struct {
	Device string   `json:"device,omitempty"` // "/dev/ublkb0"; "" for a secondary
	Lines  []string `json:"lines,omitempty"`  // for the user, in order
	Error  string   `json:"error,omitempty"`  // it will not serve
	Exit   int      `json:"exit,omitempty"`   // the exit code that goes with Error
}

// Send writes the report to w and closes it. A nil w is allowed: nobody waits.
func (r Report) Send(w *os.File) error {
	if w == nil {
		return nil
	}
	b, err := json.Marshal(r)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return errors.Join(err, w.Close())
}

// ReadReport waits for the report on r. End of file without one means the server died first.
func ReadReport(r *os.File) (Report, error) {
	var rep Report
	if err := json.NewDecoder(r).Decode(&rep); err != nil {
		return rep, fmt.Errorf("it ended before it served: %w", err)
	}
	return rep, nil
}
