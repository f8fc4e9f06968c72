package benchrun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// model is how null_blk imitates a disk: each request takes so long, so many at a time. There
// are no seeks, no rotation and no volatile cache: a write is durable when it is answered.
type model struct {
	nanos, depth int
	scheduler    string
	rotational   bool
	requests     int // in the scheduler; 0: the kernel's default
}

var models = map[Model]model{
	"nvme": {nanos: 15_000, depth: 128, scheduler: "none"},
	"sata": {nanos: 80_000, depth: 32, scheduler: "mq-deadline"},
	"hdd":  {nanos: 8_000_000, depth: 1, scheduler: "mq-deadline", rotational: true, requests: 64},
}

const (
	nullRoot = "/sys/kernel/config/nullb"
	brdMiB   = 1024
	brds     = 4
)

// disks makes imitated disks; brdsUsed counts those of the kernel's RAM disk driver.
type disks struct{ brdsUsed int }

// make imitates a disk of so many MiB and returns its device. brd is the kernel's RAM disk: no
// queue, no delay, the CPU's cost alone, and always of one size.
func (d *disks) make(name string, m Model, mib int) (string, error) {
	if m == "brd" {
		if err := load("brd", fmt.Sprintf("rd_nr=%d rd_size=%d max_part=0", brds, brdMiB<<10)); err != nil {
			return "", err
		}
		if d.brdsUsed == brds {
			return "", errors.New("no RAM disk is left")
		}
		d.brdsUsed++
		return fmt.Sprintf("/dev/ram%d", d.brdsUsed-1), nil
	}
	x, ok := models[m]
	if !ok {
		return "", fmt.Errorf("disk model %q: there are nvme, sata, hdd and brd", m)
	}
	if x.scheduler != "none" {
		if err := load(strings.ReplaceAll(x.scheduler, "-", "_"), ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err // one that is not there is built in
		}
	}
	dev, err := x.create(name, mib)
	if err != nil {
		return "", fmt.Errorf("disk %s, model %s: %w", name, m, err)
	}
	return dev, nil
}

func (x *model) create(name string, mib int) (string, error) {
	dev, err := NullDisk(name, mib, x.nanos, x.depth)
	if err != nil {
		return "", err
	}
	queue := "/sys/block/" + filepath.Base(dev) + "/queue/"
	rotational := "0"
	if x.rotational {
		rotational = "1"
	}
	err = errors.Join(set(queue+"rotational", rotational), set(queue+"scheduler", x.scheduler))
	if x.requests > 0 {
		err = errors.Join(err, set(queue+"nr_requests", strconv.Itoa(x.requests)))
	}
	return dev, err
}

// NullDisk makes a disk in memory, of so many MiB, that takes nanos for a request and depth requests at
// a time, and returns its device. It is for the lab's guest.
func NullDisk(name string, mib, nanos, depth int) (string, error) {
	if err := load("null_blk", "nr_devices=0"); err != nil {
		return "", err
	}
	dir := filepath.Join(nullRoot, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, a := range []struct {
		name  string
		value int
	}{
		{"size", mib}, {"blocksize", 512}, {"memory_backed", 1}, {"queue_mode", 2}, {"submit_queues", 1}, {"max_sectors", 2560},
		{"irqmode", 2}, {"completion_nsec", nanos}, {"hw_queue_depth", depth}, {"power", 1},
	} {
		if err := set(filepath.Join(dir, a.name), strconv.Itoa(a.value)); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat("/sys/block/" + name); err == nil {
		return "/dev/" + name, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, "index")) // older kernels name it by number
	return "/dev/nullb" + strings.TrimSpace(string(b)), err
}

func set(path, value string) error { return os.WriteFile(path, []byte(value), 0) }

// load inserts a module; one that is loaded already stays as it is.
func load(name, params string) error {
	if err := vm.Insert(name, params); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s: %w", name, err)
	}
	return nil
}
