package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of a run; every wait has one.
const (
	bootLimit    = 120 * time.Second
	bootTries    = 3
	DefaultLimit = 30 * time.Minute
	consoleTail  = 60 // lines shown of a failing run
)

// Job is one command to run in a guest.
type Job struct {
	Kernel Kernel
	Init   string // the static lab binary
	Args   []string
	Env    []string
	Dir    string
	Files  map[string]string // path in the guest → file or directory here
	Disks  []int64           // blank disks, in bytes: /dev/vdb, /dev/vdc, …
	Tree   bool              // Go's sources on a read-only disk
	SMP    int
	MemMiB int
	Limit  time.Duration
	Icount bool // exact instruction counts, one CPU
	// OneThread emulates all CPUs in turn: slower, but each sees at once what another one does to the
	// kernel's code.
	OneThread bool
	Out       io.Writer
	In        io.Reader // not nil: an interactive command
}

func (j *Job) guest() guestSpec {
	dir := j.Dir
	if dir == "" {
		dir = "/"
	}
	return guestSpec{Args: j.Args, Env: j.Env, Dir: dir, Tree: j.Tree, Tty: j.In != nil}
}

// errNoStart says that the guest died, or hung, before our init ran.
var errNoStart = errors.New("the guest never reached its init")

// ErrKernel says that the guest's kernel died, or complained of something, while our code ran.
var ErrKernel = errors.New("the guest's kernel is not well")

// Run boots the job's kernel and runs the command. It returns the command's exit code; an error
// means that there is none.
func (l *Lab) Run(j Job) (int, error) {
	if j.SMP == 0 {
		j.SMP = 2
	}
	if j.MemMiB == 0 {
		j.MemMiB = 3072
	}
	if j.Limit == 0 {
		j.Limit = DefaultLimit
	}
	base, err := l.base(j.Kernel)
	if err != nil {
		return 0, err
	}
	// Two emulated machines at once on two cores are slower than one after the other.
	unlock, err := l.lock("vm")
	if err != nil {
		return 0, err
	}
	defer unlock()
	dir, err := os.MkdirTemp("", "robib-lab-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := payload(dir+"/payload.cpio", &j); err != nil {
		return 0, err
	}
	if err := concat(dir+"/initrd", base, dir+"/payload.cpio"); err != nil {
		return 0, err
	}
	tree := ""
	if j.Tree {
		if tree, err = l.tree(); err != nil {
			return 0, err
		}
		j.Tree = tree != ""
	}
	for try := 1; ; try++ {
		code, err := l.boot(&j, dir, tree)
		if !errors.Is(err, errNoStart) || try == bootTries {
			return code, err
		}
		l.Say("the emulated machine died before our code ran (try %d of %d), booting again", try, bootTries)
	}
}

func (l *Lab) boot(j *Job, dir, tree string) (int, error) {
	disks := []string{dir + "/state.img"}
	if err := diskImage(disks[0], 1<<30); err != nil {
		return 0, err
	}
	if out, err := exec.Command(lookup("mkfs.ext4"), "-q", "-F", "-m", "0", disks[0]).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("mkfs.ext4: %w\n%s", err, out)
	}
	for i, n := range j.Disks {
		d := fmt.Sprintf("%s/disk%d.img", dir, i)
		os.Remove(d)
		if err := diskImage(d, n); err != nil {
			return 0, err
		}
		disks = append(disks, d)
	}
	console, port := dir+"/console", dir+"/port"
	os.Remove(port)
	os.Remove(console)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.Command("qemu-system-x86_64", qemuArgs(j, dir, disks, tree)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var qerr strings.Builder
	cmd.Stderr, cmd.Stdout = &qerr, &qerr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	defer func() {
		cmd.Process.Kill()
		<-ended
	}()
	code, err := l.follow(ctx, j, port, ended)
	if err == nil {
		// The guest syncs and switches itself off.
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
		}
	}
	log, _ := os.ReadFile(console)
	if bad := complaints(string(log)); err == nil && len(bad) > 0 {
		err = fmt.Errorf("%w: it complained:\n%s", ErrKernel, strings.Join(bad, "\n"))
	}
	if err != nil || code != 0 {
		l.keepConsole(log)
	}
	if err != nil && qerr.Len() > 0 {
		err = fmt.Errorf("%w\nqemu: %s", err, strings.TrimSpace(qerr.String()))
	}
	return code, err
}

func (l *Lab) keepConsole(log []byte) {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(log), "\r", "")), "\n")
	if len(lines) > consoleTail {
		lines = lines[len(lines)-consoleTail:]
	}
	p := filepath.Join(l.Cache, "console.log")
	if os.WriteFile(p, log, 0o644) == nil {
		l.Say("the guest's console is kept in %s; its end:", p)
	}
	for _, s := range lines {
		fmt.Fprintln(os.Stderr, "  |", s)
	}
}

var (
	complaint = regexp.MustCompile(`BUG: |Oops|Kernel panic|WARNING: |general protection|KASAN|Call Trace`)
	late      = regexp.MustCompile(`soft lockup|hard LOCKUP|blocked for more than|rcu: INFO: .*stall|kthread starved`)
	fatal     = regexp.MustCompile(`Oops|Kernel panic|general protection|KASAN`)
)

// lateLines is how long a report may be with which a kernel says that something took its time.
const lateLines = 200

// complaints finds what a healthy kernel does not print. That something took long, and where it was
// then, an emulated one prints when the machine below it is busy: it proves nothing.
func complaints(log string) (out []string) {
	quiet := 0
	for s := range strings.SplitSeq(log, "\n") {
		if late.MatchString(s) {
			quiet = lateLines
			continue
		}
		if quiet--; fatal.MatchString(s) || quiet <= 0 && complaint.MatchString(s) {
			out = append(out, strings.TrimSpace(s))
		}
	}
	return out
}

func hasVMX() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return regexp.MustCompile(`(?m)^flags.*\b(vmx|svm)\b`).Match(b)
}

func qemuArgs(j *Job, dir string, disks []string, tree string) []string {
	appends := "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off random.trust_cpu=on"
	a := []string{"-nodefaults", "-display", "none", "-no-reboot", "-kernel", j.Kernel.Image, "-initrd", dir + "/initrd", "-m", strconv.Itoa(j.MemMiB)}
	switch {
	case j.Icount:
		// One instruction is one nanosecond; timers are virtual, the host's load does not matter.
		a = append(a, "-accel", "tcg", "-icount", "shift=0,sleep=off", "-smp", "1", "-cpu", "SandyBridge,-cx16,-x2apic,-tsc-deadline",
			"-machine", "pc,hpet=off", "-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm")
		appends += " tsc=reliable nokaslr"
	case hasVMX():
		a = append(a, "-accel", "kvm", "-cpu", "host", "-smp", strconv.Itoa(j.SMP))
	default:
		// Without CX16 and with an old model QEMU 7.2 boots these kernels reliably.
		threads := "multi"
		if j.OneThread {
			threads = "single"
		}
		a = append(a, "-accel", "tcg,thread="+threads, "-cpu", "Nehalem,-cx16", "-smp", strconv.Itoa(j.SMP))
	}
	a = append(a, "-append", appends,
		"-chardev", "file,id=con,path="+dir+"/console", "-serial", "chardev:con",
		"-chardev", "socket,id=port,path="+dir+"/port,server=on,wait=off", "-serial", "chardev:port")
	add := func(path, serial, opts string) {
		id := "d" + serial
		a = append(a, "-drive", "file="+path+",if=none,format=raw,cache=unsafe,id="+id+opts, "-device", "virtio-blk-pci,drive="+id+",serial="+serial)
	}
	for i, d := range disks {
		serial := "state"
		if i > 0 {
			serial = fmt.Sprintf("lab%d", i)
		}
		add(d, serial, "")
	}
	if tree != "" {
		add(tree, "tree", ",read-only=on")
	}
	return a
}

// follow reads the guest's port: what the command prints, and how it ended.
func (l *Lab) follow(ctx context.Context, j *Job, port string, ended <-chan struct{}) (int, error) {
	var c net.Conn
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if c, err = net.Dial("unix", port); err == nil {
			break
		}
		select {
		case <-ended:
			return 0, errNoStart
		default:
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%w: qemu opened no port: %v", errNoStart, err)
		}
	}
	defer c.Close()
	lines := make(chan string, 64)
	go func() {
		defer close(lines)
		r := bufio.NewReaderSize(c, 64<<10)
		for {
			s, err := readChunk(r)
			if s != "" {
				lines <- s
			}
			if err != nil {
				return
			}
		}
	}()
	if j.In != nil {
		go io.Copy(c, j.In)
	}
	limit, started := time.NewTimer(bootLimit), false
	defer limit.Stop()
	for {
		select {
		case s, ok := <-lines:
			switch {
			case !ok && !started:
				return 0, errNoStart
			case !ok:
				return 0, fmt.Errorf("%w: it died before the command ended", ErrKernel)
			case strings.HasPrefix(s, startMark):
				started = true
				limit.Reset(j.Limit)
			case strings.HasPrefix(s, exitMark):
				code, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(s, exitMark)))
				if err == nil && !started {
					err = errors.New("the guest could not be set up")
				}
				return code, err
			default:
				io.WriteString(j.Out, s)
			}
		case <-limit.C:
			if !started {
				return 0, errNoStart
			}
			return 0, fmt.Errorf("the command did not end within %v", j.Limit)
		case <-ctx.Done():
			return 0, errors.New("interrupted")
		}
	}
}

// readChunk reads a line, or what there is of one: a prompt has no end of line. A marker stands
// at the start of a chunk.
func readChunk(r *bufio.Reader) (string, error) {
	var b []byte
	for {
		if len(b) > 0 && r.Buffered() == 0 && b[0] != 0 {
			return string(b), nil
		}
		c, err := r.ReadByte()
		if err != nil {
			return string(b), err
		}
		if c == 0 && len(b) > 0 {
			return string(b), r.UnreadByte()
		}
		b = append(b, c)
		if c == '\n' {
			return string(b), nil
		}
	}
}
