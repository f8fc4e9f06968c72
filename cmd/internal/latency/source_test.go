package latency

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/cmd/internal/control"
)

// served answers as a volume's server does.
type served struct{ t *Tracer }

func (s served) Status() (any, error) { return nil, nil }

func (s served) Do(_ context.Context, command string, a control.Args, _ func(string)) (any, error) {
	if command != Command {
		return nil, fmt.Errorf("%s?", command)
	}
	return s.t.Answer(a.Set)
}

// A volume's server and its own probes tell the same of a loop device.
func TestSources(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", path).Run()
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)

	tr, err := Open(path, 1, 64, bpf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	t.Setenv("ROBIB_RUN_DIR", filepath.Join(t.TempDir(), "run"))
	srv, err := control.Listen("v", served{tr})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	asked := Ask("v")
	before, err := asked.Take()
	if err != nil || before.Limit != 0 || before.Rate != bpf.DefaultRate || before.Device != path {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := asked.SetThreshold(1, 50); err != nil {
		t.Fatal(err)
	}
	for i := range 9 {
		if _, err := f.WriteAt(buf, int64(i)<<12); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range map[string]Source{"server": asked, "own": tr} {
		now, err := s.Take()
		if err != nil {
			t.Fatal(err)
		}
		r, err := NewReport(before, now, Choice{Op: "write"})
		if err != nil || len(r.Operations) != 1 || r.Operations[0].Count != 9 || r.Seconds <= 0 {
			t.Fatalf("%s: %+v, %v", name, r, err)
		}
		if n := len(now.Outliers); n != 9 || now.Outliers[n-1].Seq != 9 || now.Outliers[n-1].Sector != 64 || now.Limit != 1 || now.Rate != 50 {
			t.Errorf("%s: %+v", name, now.Outliers)
		}
		if len(now.Probes) != 5 || !now.Probes[0].Attached {
			t.Errorf("%s: %+v", name, now.Probes)
		}
	}
	if err := asked.SetThreshold(0, 0); err != nil {
		t.Fatal(err)
	}
	if limit, _ := tr.Device().Threshold(); limit != time.Duration(0) {
		t.Errorf("threshold %v", limit)
	}
	for _, set := range []map[string]string{{"threshold_ns": "x"}, {"threshold_ns": "1", "outliers_per_s": "y"}} {
		if _, err := tr.Answer(set); err == nil {
			t.Errorf("%v", set)
		}
	}
}
