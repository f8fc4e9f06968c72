package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// root is the module's directory: the lab builds what it puts into the guest from there.
func root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	d := filepath.Dir(strings.TrimSpace(string(out)))
	if _, err := os.Stat(filepath.Join(d, "cmd/lab")); err != nil {
		return "", fmt.Errorf("run the lab inside its repository (go run ./cmd/lab): %w", err)
	}
	return d, nil
}

// build compiles pkg statically to out: the guest has no compiler and perhaps no C library.
func build(out, pkg string, args ...string) error {
	d, err := root()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", append(append(args, "-o", out), pkg)...)
	cmd.Dir, cmd.Env = d, append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// job prepares a guest with the lab as its init and robib-ublk in its path. clean removes what was built.
func job(l *vm.Lab, kernel string) (j vm.Job, clean func(), err error) {
	clean = func() {}
	if err = l.Need(); err != nil {
		return
	}
	if j.Kernel, err = l.Kernel(kernel); err != nil {
		return
	}
	dir, err := os.MkdirTemp("", "robib-build-")
	if err != nil {
		return
	}
	clean = func() { os.RemoveAll(dir) }
	j.Init, j.Out = filepath.Join(dir, "lab"), os.Stdout
	if err = build(j.Init, "./cmd/lab", "build", "-trimpath"); err != nil {
		return
	}
	bin := filepath.Join(dir, "robib-ublk")
	if err = build(bin, "./cmd/robib-ublk", "build", "-trimpath"); err != nil {
		return
	}
	j.Files = map[string]string{"/bin/robib-ublk": bin, "/bin/lab": j.Init}
	j.Disks = defaultDisks()
	return
}

// defaultDisks are two of 512 MiB for data and two of 128 MiB for logs.
func defaultDisks() []int64 { return []int64{512 << 20, 512 << 20, 128 << 20, 128 << 20} }
