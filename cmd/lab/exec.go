package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/robib-ublk/robib/cmd/lab/vm"
)

func (m *Machine) put(j *vm.Job) error {
	for _, p := range m.Put {
		host, guest, ok := strings.Cut(p, "=")
		if !ok || !strings.HasPrefix(guest, "/") {
			return fmt.Errorf("--put %s: want HOST=/GUEST", p)
		}
		j.Files[guest] = host
	}
	return nil
}

// ExecCmd runs a test binary, as `go test -exec` calls it.
type ExecCmd struct {
	Machine
	Command []string `arg:"" passthrough:"" help:"The test binary and its arguments."`
}

// Run puts the binary and its package's testdata into the guest and runs it there.
func (e *ExecCmd) Run(*CLI) error {
	l, err := vm.New()
	if err != nil {
		return err
	}
	j, clean, err := e.job(l)
	defer clean()
	if err != nil {
		return err
	}
	args := e.Command
	if args[0] == "--" {
		args = args[1:]
	}
	j.Files["/test/"+filepath.Base(args[0])] = args[0]
	j.Dir = "/test"
	if st, err := os.Stat("testdata"); err == nil && st.IsDir() {
		j.Files["/test/testdata"] = "testdata"
	}
	j.Args = append([]string{"/test/" + filepath.Base(args[0])}, args[1:]...)
	return finish(l.Run(j))
}
