package supervise

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// waitGone returns when every ring that held the pipe's write end is gone: a write that the kernel still has may land
// at any time until then, and that is never forced. But a disk that does not answer past the deadline has failed: the
// next server does without it, and nobody can open it exclusively before its last I/O is back.
func (s *Spec) waitGone(eof *os.File) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, eof)
	}()
	say := time.NewTimer(sayAfter)
	defer say.Stop()
	var limit time.Duration
	if s.Deadline != nil {
		limit = s.Deadline()
	}
	past := time.NewTimer(limit)
	defer past.Stop()
	if limit <= 0 {
		past.Stop()
	}
	for {
		select {
		case <-gone:
			return
		case <-say.C:
			s.Logf("%s: waiting for the dead server's last I/O to end before the next one may start", s.Name)
		case <-past.C:
			if s.giveUp(limit) {
				eof.SetReadDeadline(time.Unix(1, 0))
				<-gone
				return
			}
			past.Reset(limit)
		}
	}
}

// probeWait is how long a disk may take to answer a read of its first bytes, and to have nothing in flight.
const probeWait = 5 * time.Second

// giveUp takes from the next server what does not answer, and reports whether that explains the wait: else another
// one's I/O is still to come, and it goes on.
func (s *Spec) giveUp(after time.Duration) bool {
	var all sync.WaitGroup
	var failed [2]error
	files := [2]**os.File{&s.Disk, &s.Log}
	for i, f := range files {
		if *f != nil {
			all.Go(func() { failed[i] = s.probe(*f) })
		}
	}
	all.Wait()
	for i, f := range files {
		if failed[i] != nil {
			s.Logf("%s: the %s has failed, %v after the server died: %v", s.Name, [2]string{"disk", "log"}[i], after, failed[i])
			(*f).Close()
			*f = nil
		}
	}
	return failed[0] != nil || failed[1] != nil
}

// probe is why a disk has failed, or nil. A process of its own asks it, because what waits for a disk that hangs
// cannot be ended; that process goes when the disk answers.
func (s *Spec) probe(f *os.File) error {
	var p passed
	p.add("disk", f)
	cmd := exec.Command(s.Exe, s.Probe...)
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append(os.Environ(), p.env()), p.files, s.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("it cannot be asked: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	end := time.NewTimer(probeWait)
	defer end.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("it cannot be read: %w", err)
		}
	case <-end.C:
		cmd.Process.Kill()
		return fmt.Errorf("it does not answer a read within %v", probeWait)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if idle(f) {
			return nil
		}
		select {
		case <-tick.C:
		case <-end.C:
			return fmt.Errorf("I/O on it does not end within %v", probeWait)
		}
	}
}

// idle reports whether a block device has nothing in flight, as far as the kernel counts it; a file has not.
func idle(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/inflight", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	n := strings.Fields(string(b))
	return err != nil || len(n) == 2 && n[0] == "0" && n[1] == "0"
}

// Probe is what a process does that a supervisor has ask a disk: it reads from it.
func Probe() error {
	in, err := Receive()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned, as O_DIRECT wants it
	if err != nil {
		return err
	}
	defer unix.Munmap(b)
	if _, err := in.Disk.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	return nil
}
