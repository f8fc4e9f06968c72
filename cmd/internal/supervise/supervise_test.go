package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary play the server: its first argument says how it behaves.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "server" {
		os.Exit(server(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func server(args []string) int {
	in, err := Receive()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ExitRefused
	}
	switch args[0] {
	case "stop":
		fmt.Fprintln(os.Stderr, "served", strings.Join(args, " "))
		fmt.Fprintln(os.Stderr, "has disk", in.Disk != nil, "log", in.Log != nil)
		if in.Disk != nil {
			b, err := io.ReadAll(in.Disk)
			fmt.Fprintf(os.Stderr, "disk %s %v\n", b, err)
		}
		Report{Device: "/dev/x", Lines: []string{"live"}}.Send(in.Ready)
		return ExitStopped
	case "again": // seven times, each noted in a file
		b, _ := os.ReadFile(args[1])
		if err := os.WriteFile(args[1], append(b, '.'), 0o600); err != nil || len(b) == 7 {
			return ExitStopped
		}
		return ExitAgain
	case "tell": // each life notes when it was told that one before it died, and dies as the file "plan" says
		note, _ := os.ReadFile(args[1])
		life := strings.Count(string(note), "\n")
		if err := os.WriteFile(args[1], fmt.Appendf(note, "%d %d\n", in.Died, Boottime()), 0o600); err != nil || life == len(args[2]) {
			return ExitStopped
		}
		if args[2][life] == 's' {
			if err := in.Served(); err != nil {
				return ExitRefused
			}
		}
		return 9
	case "probe":
		if f, err := os.OpenFile(args[1], os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
			f.WriteString(".")
			f.Close()
		}
		b := make([]byte, 4)
		if in.Disk.ReadAt(b, 0); string(b) == "hung" {
			os.Open(args[2]) // a FIFO
		}
		if err := Probe(); err != nil {
			return ExitRefused
		}
		return 0
	case "refuse":
		return ExitRefused
	case "orphan": // dies while a child still holds the pipe, as a ring's late I/O does
		if len(args) > 1 { // until somebody opens a FIFO
			c := exec.Command("/bin/sh", "-c", "read x < "+args[1])
			c.ExtraFiles = []*os.File{in.Pipe}
			if err := c.Start(); err != nil {
				return ExitRefused
			}
			return 9
		}
		c := exec.Command("/bin/sh", "-c", "read x; echo late >&2")
		r, w, _ := os.Pipe()
		c.Stdin, c.Stderr, c.ExtraFiles = r, os.Stderr, []*os.File{in.Pipe}
		if err := c.Start(); err != nil {
			return ExitRefused
		}
		fmt.Fprintln(os.Stderr, "died")
		w.Close()
		return 9
	}
	p, _ := os.FindProcess(os.Getpid())
	p.Kill()
	select {}
}

type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) logf(f string, a ...any) { fmt.Fprintf(s, f+"\n", a...) }

func spec(t *testing.T, out *sink, first, later string) Spec {
	t.Helper()
	return Spec{Name: "v", Exe: os.Args[0], Args: []string{"server", first}, Reattach: []string{"server", later},
		Logf: out.logf, Stderr: out}
}

func TestKilledServerIsReplaced(t *testing.T) {
	var out sink
	if err := Run(context.Background(), spec(t, &out, "kill", "stop")); err != nil {
		t.Fatal(err, out.b.String())
	}
	if s := out.b.String(); !strings.Contains(s, "server died (code 137)") || !strings.Contains(s, "served stop") {
		t.Fatal(s)
	}
}

func TestReportReachesWhoeverWaits(t *testing.T) {
	var out sink
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := spec(t, &out, "stop", "stop")
	s.Ready = w
	if err := Run(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	rep, err := ReadReport(r)
	if err != nil || rep.Device != "/dev/x" || len(rep.Lines) != 1 {
		t.Fatal(rep, err)
	}
}

func TestRefusalIsNotRetried(t *testing.T) {
	var out sink
	err := Run(context.Background(), spec(t, &out, "refuse", "stop"))
	if err == nil || strings.Contains(out.b.String(), "served") {
		t.Fatal(err, out.b.String())
	}
}

func TestCrashLoopEnds(t *testing.T) {
	var out sink
	if err := Run(context.Background(), spec(t, &out, "kill", "kill")); !errors.Is(err, ErrCrashLoop) {
		t.Fatal(err)
	}
}

// Servers that end because they were asked to, soon and often, are no crash loop.
func TestAskedForServersAreNoCrashLoop(t *testing.T) {
	var out sink
	s := spec(t, &out, "again", "again")
	note := filepath.Join(t.TempDir(), "served")
	s.Args, s.Reattach = append(s.Args, note), append(s.Reattach, note)
	if err := Run(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(note); len(b) != 8 || strings.Contains(out.b.String(), "died") {
		t.Fatal(string(b), err, out.b.String())
	}
}

// The next server must not start before the last holder of the pipe is gone.
func TestNextServerWaitsForThePipe(t *testing.T) {
	var out sink
	if err := Run(context.Background(), spec(t, &out, "orphan", "stop")); err != nil {
		t.Fatal(err)
	}
	s := out.b.String()
	if late, served := strings.Index(s, "late"), strings.Index(s, "served"); late < 0 || served < late {
		t.Fatalf("late I/O at %d, next server at %d:\n%s", late, served, s)
	}
}

// Each server is told when the newest one that served died: one that never served does not count.
func TestTheMomentOfTheDeathIsPassedOn(t *testing.T) {
	var out sink
	note := filepath.Join(t.TempDir(), "note")
	s := spec(t, &out, "tell", "tell")
	s.Args, s.Reattach = append(s.Args, note, "-s-"), append(s.Reattach, note, "-s-") // the lives: whether each serves
	t.Setenv(diedEnv, "1")
	if err := Run(context.Background(), s); err != nil {
		t.Fatal(err, out.b.String())
	}
	b, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	var died, at [4]int64
	for i, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if _, err := fmt.Sscan(l, &died[i], &at[i]); err != nil {
			t.Fatal(err)
		}
	}
	if died[0] != 0 || died[1] != 0 || died[2] <= at[1] || died[2] >= at[2] || died[3] != died[2] {
		t.Fatalf("told %v, at %v", died, at)
	}
}

// Past the deadline a disk that does not answer is not waited for, whose last I/O never comes; the other one stays.
// While both answer, it is waited for, however long that takes.
func TestADiskThatHangsIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) *os.File {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, disk := range []string{"hung", "good"} {
		var out sink
		fifo, note := filepath.Join(dir, disk+".fifo"), filepath.Join(dir, disk+".note")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		s := spec(t, &out, "orphan", "stop")
		s.Args = append(s.Args, fifo)
		s.Disk, s.Log, s.Probe = file("disk", disk), file("log", "good"), []string{"server", "probe", note, fifo}
		s.Deadline = func() time.Duration { return 20 * time.Millisecond }
		let := func() { // the last I/O comes back
			f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		}
		asked := func() int { b, _ := os.ReadFile(note); return len(b) }
		if disk == "good" {
			go func() {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for asked() < 4 { // twice each
					<-tick.C
				}
				let()
			}()
		}
		err := Run(context.Background(), s)
		if disk == "hung" {
			let()
		}
		got, hung := out.b.String(), disk == "hung"
		if err != nil || hung != (asked() == 2) {
			t.Fatalf("%s: %v, asked %d times\n%s", disk, err, asked(), got)
		}
		if hung != strings.Contains(got, "the disk has failed") || !strings.Contains(got, fmt.Sprintf("has disk %v log true", !hung)) || strings.Contains(got, "the log has failed") {
			t.Errorf("%s:\n%s", disk, got)
		}
	}
}

// A server that replaced its disk is followed by one that gets the new disk, and by one without a disk
// where that cannot be had.
func TestAnotherDisk(t *testing.T) {
	for _, gone := range []bool{false, true} {
		dir := t.TempDir()
		open := func(name string) *os.File {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		var out sink
		s := spec(t, &out, "kill", "stop")
		s.Disk = open("old")
		s.Another = func(disk, log *os.File) (*os.File, *os.File) {
			disk.Close()
			if gone {
				return nil, log
			}
			return open("new"), log
		}
		if err := Run(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		got := out.b.String()
		if gone == strings.Contains(got, "disk new <nil>") || strings.Contains(got, "disk old") || !strings.Contains(got, "served stop") {
			t.Errorf("gone %v:\n%s", gone, got)
		}
	}
}
