package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guestSpec is what the guest's init is told to do.
type guestSpec struct {
	Args []string
	Env  []string
	Dir  string
	Tree bool
	Tty  bool
}

const (
	startMark = "\x00LAB-START "
	exitMark  = "\x00LAB-EXIT "
	dataPort  = "/dev/ttyS1"
)

// IsGuest reports whether this process is the init of a lab's guest.
func IsGuest() bool {
	_, err := os.Stat("/lab.json")
	return os.Getpid() == 1 && err == nil
}

// Guest is the guest's init: it mounts, loads modules, runs the one command, says how it ended
// and switches the machine off.
func Guest() {
	code := 125
	out, err := guestSetup()
	if err == nil {
		var spec guestSpec
		if spec, err = readSpec(); err == nil {
			fmt.Fprintf(out, "%s%d\n", startMark, unix.Getpid())
			code, err = guestRun(spec, out)
		}
	}
	if err != nil {
		if out == nil {
			out = os.Stderr
		}
		fmt.Fprintf(out, "lab: guest: %v\n", err)
	}
	fmt.Fprintf(out, "%s%d\n", exitMark, code)
	drain(out)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// drain waits until the port has sent everything.
func drain(f *os.File) {
	unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
}

func readSpec() (s guestSpec, err error) {
	b, err := os.ReadFile("/lab.json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func guestSetup() (*os.File, error) {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"}, {"run", "/run", "tmpfs"}, {"tmp", "/tmp", "tmpfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	os.MkdirAll("/dev/pts", 0o755)
	os.MkdirAll("/dev/shm", 0o755)
	unix.Mount("pts", "/dev/pts", "devpts", 0, "")
	unix.Mount("shm", "/dev/shm", "tmpfs", 0, "")
	for name, to := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		os.Symlink(to, name)
	}
	out, err := os.OpenFile(dataPort, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if err := rawMode(out); err != nil {
		return out, err
	}
	if err := loadModules(); err != nil {
		return out, err
	}
	unix.Mount("config", "/sys/kernel/config", "configfs", 0, "")
	unix.Mount("debug", "/sys/kernel/debug", "debugfs", 0, "")
	unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 65536, Max: 65536})
	if err := loopbackUp(); err != nil {
		return out, err
	}
	return out, waitMount("/dev/vda", "/var/lib/robib-ublk", 0)
}

// waitMount mounts an ext4 disk whose driver may still be looking for it.
func waitMount(dev, on string, flags uintptr) error {
	var err error
	for range 200 {
		if err = unix.Mount(dev, on, "ext4", flags, ""); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("mount %s on %s: %w", dev, on, err)
}

func rawMode(f *os.File) error {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

func loadModules() error {
	b, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(b)) {
		if err := Insert(name, ""); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

// Insert loads a module that lies in the guest, with parameters; a loaded one is left as it is.
func Insert(name, params string) error {
	f, err := os.Open("/lib/modules/" + name + ".ko")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), params, 0)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// guestRun runs the command and, being process 1, reaps every orphan until the command ends.
func guestRun(s guestSpec, out *os.File) (int, error) {
	if s.Tree {
		if err := waitMount(treeDisk(), "/tree", unix.MS_RDONLY); err != nil {
			return 125, err
		}
	}
	env := append([]string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root", "TERM=vt100", "TMPDIR=/tmp", "ROBIB_LAB=1"}, s.Env...)
	if s.Tree {
		env = append(env, "ROBIB_TREE=/tree")
	}
	os.Setenv("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
	path := s.Args[0]
	if !strings.Contains(path, "/") {
		for _, d := range []string{"/usr/bin/", "/bin/", "/"} {
			if _, err := os.Stat(d + path); err == nil {
				path = d + path
				break
			}
		}
	}
	in, err := os.Open("/dev/null")
	if err != nil {
		return 125, err
	}
	if s.Tty {
		in = out
	}
	p, err := os.StartProcess(path, s.Args, &os.ProcAttr{Dir: s.Dir, Env: env, Files: []*os.File{in, out, out}, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		return 127, err
	}
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 125, fmt.Errorf("wait: %w", err)
		}
		if pid != p.Pid {
			continue
		}
		if st.Signaled() {
			return 128 + int(st.Signal()), nil
		}
		return st.ExitStatus(), nil
	}
}

// treeDisk finds the disk whose serial number says that it is the source tree.
func treeDisk() string {
	d, err := os.ReadDir("/sys/block")
	if err != nil {
		return "/dev/none"
	}
	for _, e := range d {
		b, err := os.ReadFile("/sys/block/" + e.Name() + "/serial")
		if err == nil && strings.TrimSpace(string(b)) == "tree" {
			return "/dev/" + e.Name()
		}
	}
	return "/dev/none"
}
