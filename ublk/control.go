package ublk

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

const (
	controlPath = "/dev/ublk-control"
	// CommandTimeout bounds every control command: the kernel has no deadline of its own.
	CommandTimeout = 10 * time.Second
	// argBytes is the size of one command's buffer.
	argBytes = 4096
	// slots is how many commands may be under way, hung ones included.
	slots = 16
)

// ErrNoDriver says that the kernel has no ublk driver, or it is not loaded.
var ErrNoDriver = errors.New("no ublk driver: " + controlPath + " is missing (modprobe ublk_drv; Linux 6.1 or newer with CONFIG_BLK_DEV_UBLK)")

// TimeoutError says that the driver did not answer a command in time; the command may still happen.
type TimeoutError struct {
	Command string
	Device  int
	After   time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("ublk device %d: the driver did not answer %q within %v (a known kind of kernel fault; the command may still be carried out)", e.Device, e.Command, e.After)
}

// CommandError is the driver's answer to a command it refused.
type CommandError struct {
	Command string
	Device  int
	Errno   syscall.Errno
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("ublk device %d: %s: %v", e.Device, e.Command, e.Errno)
}

func (e *CommandError) Unwrap() error { return e.Errno }

// kernel carries out one control command; it is the seam that tests put a fake driver behind.
type kernel interface {
	// do submits the command and waits at most for timeout; it returns the result (negative
	// errno), or ok false when the time ran out.
	do(op uint32, c ctrlCmd, buf []byte, timeout time.Duration) (res int32, out []byte, ok bool, err error)
	close() error
}

// Control gives commands to the ublk driver. Its methods may be called from any goroutine; a
// command that hangs holds up nobody but its caller, and that one no longer than its deadline.
type Control struct {
	k       kernel
	Timeout time.Duration // of each command; 0: CommandTimeout
}

// Open opens the control device.
func Open() (*Control, error) {
	f, err := os.OpenFile(controlPath, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return nil, ErrNoDriver
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: permission denied: run this as root", controlPath)
	}
	if err != nil {
		return nil, err
	}
	d := &driver{f: f, calls: make(chan *call), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go d.run(ready)
	if err := <-ready; err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Control{k: d}, nil
}

// Close ends the control thread. Devices stay.
func (c *Control) Close() error { return c.k.close() }

// command carries out op on device dev. buf goes along and comes back; EINTR is tried again.
func (c *Control) command(name string, op uint32, dev int, data uint64, buf []byte, timeout time.Duration) ([]byte, error) {
	if timeout == 0 {
		timeout = c.Timeout
	}
	if timeout == 0 {
		timeout = CommandTimeout
	}
	end := time.Now().Add(timeout)
	for {
		cmd := ctrlCmd{devID: uint32(dev), queueID: math.MaxUint16, length: uint16(len(buf)), data: data}
		res, out, ok, err := c.k.do(op, cmd, buf, time.Until(end))
		switch {
		case err != nil:
			return nil, fmt.Errorf("ublk device %d: %s: %w", dev, name, err)
		case !ok:
			return nil, &TimeoutError{name, dev, timeout}
		case res == -int32(unix.EINTR) && time.Now().Before(end):
			continue
		case res < 0:
			return nil, &CommandError{name, dev, syscall.Errno(-res)}
		}
		return out, nil
	}
}

// driver is the real kernel: one thread with a ring of 128-byte entries.
type driver struct {
	f     *os.File
	calls chan *call
	ended chan struct{}
	once  sync.Once
}

type call struct {
	op      uint32
	cmd     ctrlCmd
	buf     []byte
	timeout time.Duration
	end     time.Time
	answer  chan answer
}

type answer struct {
	res int32
	buf []byte
	ok  bool
	err error
}

func (d *driver) do(op uint32, c ctrlCmd, buf []byte, timeout time.Duration) (int32, []byte, bool, error) {
	k := &call{op: op, cmd: c, buf: buf, timeout: timeout, end: time.Now().Add(timeout), answer: make(chan answer, 1)}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case d.calls <- k:
	case <-d.ended:
		return 0, nil, false, os.ErrClosed
	case <-late.C:
		return 0, nil, false, nil
	}
	select {
	case a := <-k.answer:
		return a.res, a.buf, a.ok, a.err
	case <-d.ended:
		return 0, nil, false, os.ErrClosed
	case <-late.C:
		return 0, nil, false, nil
	}
}

func (d *driver) close() error {
	err := error(os.ErrClosed)
	d.once.Do(func() {
		close(d.calls)
		<-d.ended
		err = d.f.Close()
	})
	return err
}

// pollNanos is how often the control thread looks for new calls while commands are under way.
const pollNanos = 2_000_000

// run owns the ring. A command's buffer belongs to its slot until the command completes, so a
// hung one costs a slot and nothing else.
func (d *driver) run(ready chan<- error) {
	runtime.LockOSThread() // the registered ring index belongs to this thread
	defer close(d.ended)
	r, err := uring.New(uring.Options{Entries: slots, SQE128: true})
	if err != nil {
		ready <- err
		return
	}
	mem, err := unix.Mmap(-1, 0, slots*argBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		ready <- errors.Join(err, r.Close())
		return
	}
	ready <- nil
	var busy [slots]*call
	n := 0
	for {
		if n == 0 {
			k, ok := <-d.calls
			if !ok {
				break
			}
			n += d.submit(r, mem, &busy, k)
		} else {
			select {
			case k, ok := <-d.calls:
				if !ok {
					// Hung commands: their memory must outlive them, so the mapping stays.
					return
				}
				n += d.submit(r, mem, &busy, k)
			default:
			}
		}
		if err := r.SubmitAndWait(1, pollNanos); err != nil {
			for _, k := range busy {
				if k != nil {
					k.answer <- answer{err: err}
				}
			}
			return
		}
		for c, ok := r.Peek(); ok; c, ok = r.Peek() {
			r.Advance(1)
			i := int(c.UserData)
			k := busy[i]
			busy[i] = nil
			n--
			out := append([]byte(nil), mem[i*argBytes:i*argBytes+len(k.buf)]...)
			k.answer <- answer{res: c.Res, buf: out, ok: true}
		}
	}
	errors.Join(r.Close(), unix.Munmap(mem))
}

func (d *driver) submit(r *uring.Ring, mem []byte, busy *[slots]*call, k *call) int {
	for i := range busy {
		if busy[i] == nil {
			buf := mem[i*argBytes : (i+1)*argBytes]
			clear(buf)
			copy(buf, k.buf)
			e := r.Get()
			e.PrepURingCmd(int32(d.f.Fd()), k.op)
			putCtrl(r.Cmd(e), &k.cmd, buf, len(k.buf))
			e.UserData = uint64(i)
			busy[i] = k
			return 1
		}
	}
	k.answer <- answer{err: fmt.Errorf("%d control commands hang already", slots)}
	return 0
}
