package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of a server that the supervisor acts on; any other end is a crash.
const (
	ExitStopped = 0  // ended by request
	ExitAgain   = 75 // ended by request, and the next server shall go on: with other disks, or another role (EX_TEMPFAIL)
	ExitRefused = 78 // cannot serve, and starting again would not help (EX_CONFIG)
)

// Defaults of Spec.
const (
	// CrashLimit is how many servers in a row may die within CrashWindow of their start.
	CrashLimit  = 5
	CrashWindow = 10 * time.Second
	// sayAfter is when a wait for the dead server's I/O is reported.
	sayAfter = 5 * time.Second
)

// Spec describes one supervised server.
type Spec struct {
	Name      string
	Exe       string
	Args      []string // of the first server
	Reattach  []string // of every later one
	Disk, Log *os.File // opened exclusively by the caller; passed on, kept open here
	Ready     *os.File // passed to the first server only; may be nil

	// Deadline is asked, when a server has died, how long its last I/O may keep disk and log from the next one
	// before that of them which does not answer counts as failed; 0, or nil: for ever.
	Deadline func() time.Duration
	Probe    []string // arguments of a process that calls Probe

	// Another gives, before each later server, what takes Disk's or Log's place: itself when it stays,
	// nil when there is nothing any more. It closes what it replaces. May be nil.
	Another func(disk, log *os.File) (*os.File, *os.File)

	Logf   func(format string, args ...any)
	Stderr io.Writer
}

// ErrCrashLoop says that the server died again and again at once; the device stays, its I/O waits.
var ErrCrashLoop = errors.New("the server keeps dying")

// Run starts the server and keeps one alive until it ends by request, refuses to serve, or
// keeps crashing. Cancelling ctx sends SIGTERM and then waits for the server to end by itself.
func Run(ctx context.Context, s Spec) error {
	args, ready, crashes, died := s.Args, s.Ready, 0, int64(0)
	for {
		begun := time.Now()
		code, end, err := once(ctx, &s, args, ready, died)
		if ready != nil {
			ready.Close()
			ready = nil
		}
		if err != nil {
			return err
		}
		switch code {
		case ExitStopped:
			return nil
		case ExitRefused:
			return fmt.Errorf("%s: the server refused to serve; its message is above", s.Name)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: the server died while it was told to stop", s.Name)
		}
		if crashes++; time.Since(begun) > CrashWindow {
			crashes = 1
		}
		if code == ExitAgain {
			crashes = 0
		}
		if crashes >= CrashLimit {
			return fmt.Errorf("%s: %w (%d times within %v each); the device stays and its I/O waits: mend the cause, then `robib-ublk recover %s`",
				s.Name, ErrCrashLoop, crashes, CrashWindow, s.Name)
		}
		if end > 0 {
			died = end
		}
		what := fmt.Sprintf("server died (code %d), starting the next one: applications only see a pause", code)
		if code == ExitAgain {
			what = "server ended as it was asked to, starting the next one"
		}
		s.Logf("%s: %s", s.Name, what)
		args = s.Reattach
		if s.Another != nil {
			s.Disk, s.Log = s.Another(s.Disk, s.Log)
		}
	}
}

// once runs one server to its end and waits until its rings are gone. code is 128+N for signal N; died is
// when it was found dead, in ns of Boottime, 0 if it had never served; before is that of one before it.
func once(ctx context.Context, s *Spec, args []string, ready *os.File, before int64) (code int, died int64, err error) {
	eof, w, err := os.Pipe()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: pipe: %w", s.Name, err)
	}
	defer eof.Close()
	told, serves, err := os.Pipe()
	if err != nil {
		w.Close()
		return 0, 0, fmt.Errorf("%s: pipe: %w", s.Name, err)
	}
	defer told.Close()
	var p passed
	p.add("pipe", w)
	p.add("serves", serves)
	p.add("ready", ready)
	p.add("disk", s.Disk)
	p.add("log", s.Log)
	cmd := exec.Command(s.Exe, args...)
	cmd.Env = append(os.Environ(), p.env(), fmt.Sprintf("%s=%d", diedEnv, before))
	cmd.ExtraFiles = p.files
	cmd.Stdout, cmd.Stderr = s.Stderr, s.Stderr
	// Its own process group: ^C at a terminal reaches the supervisor, which tells the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err = cmd.Start(); err != nil {
		w.Close()
		serves.Close()
		return 0, 0, fmt.Errorf("%s: start the server: %w", s.Name, err)
	}
	w.Close()
	serves.Close()
	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
			cmd.Process.Signal(syscall.SIGTERM)
		case <-ended:
		}
	}()
	err = cmd.Wait()
	if hasByte(told) {
		died = Boottime()
	}
	close(ended)
	<-stopped
	code = cmd.ProcessState.ExitCode()
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		code = 128 + int(st.Signal())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return code, died, fmt.Errorf("%s: wait for the server: %w", s.Name, err)
	}
	s.waitGone(eof)
	return code, died, nil
}

// hasByte reports whether a byte lies in a pipe; it does not wait for one.
func hasByte(r *os.File) bool {
	c, err := r.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = c.Read(func(fd uintptr) bool {
		n, _ = unix.Read(int(fd), make([]byte, 1))
		return true
	})
	return err == nil && n == 1
}
