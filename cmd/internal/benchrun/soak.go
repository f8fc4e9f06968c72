package benchrun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// How much the CPU works cannot be read from the kernel: newer ones look only at each timer
// tick whether it idles. So a soaker takes whatever time is left and counts it. It runs only
// when nothing else can (SCHED_IDLE) and each of its rounds takes the same few instructions.
const (
	soakPath   = "/dev/shm/soak"
	soakSize   = 4096
	soakWarmup = 100 * time.Millisecond
	soakSample = 300 * time.Millisecond
)

// Soak is the soaker's own process; it ends when it is killed.
func Soak() error {
	b, err := soakMap(unix.PROT_READ | unix.PROT_WRITE)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
		return fmt.Errorf("sched_setattr: %w", err)
	}
	for n := uint64(1); ; n++ {
		binary.LittleEndian.PutUint64(b, n)
	}
}

func soakMap(prot int) ([]byte, error) {
	f, err := os.OpenFile(soakPath, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, soakSize, prot, unix.MAP_SHARED)
}

// soaker is a running one, seen from outside.
type soaker struct {
	cmd   *exec.Cmd
	count []byte
	round float64 // nanoseconds each takes
}

func startSoaker() (*soaker, error) {
	if err := os.WriteFile(soakPath, make([]byte, soakSize), 0o600); err != nil {
		return nil, err
	}
	b, err := soakMap(unix.PROT_READ)
	if err != nil {
		return nil, err
	}
	s := &soaker{cmd: exec.Command("/bin/lab", "guest-soak"), count: b}
	s.cmd.Stderr = os.Stderr
	s.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // it must not be stopped, and need not
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, unix.Munmap(b))
	}
	time.Sleep(soakWarmup)
	n, t := s.rounds(), time.Now()
	time.Sleep(soakSample)
	took, rounds := time.Since(t), s.rounds()-n
	if rounds == 0 {
		return nil, errors.Join(errors.New("the soaker does not run"), s.stop())
	}
	s.round = float64(took) / float64(rounds)
	return s, nil
}

func (s *soaker) rounds() uint64 { return binary.LittleEndian.Uint64(s.count) }

func (s *soaker) stop() error {
	err := s.cmd.Process.Kill()
	s.cmd.Wait() // says that it was killed
	return errors.Join(err, unix.Munmap(s.count))
}

// busy measures how long the CPU worked while f ran: where time is instructions, how many that took.
func (s *soaker) busy(f func() error) (float64, error) {
	n, t := s.rounds(), time.Now()
	err := f()
	return float64(time.Since(t)) - float64(s.rounds()-n)*s.round, err
}
