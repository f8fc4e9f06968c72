package volume

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/cmd/internal/control"
)

// LogDir is where a supervisor in the background writes, unless ROBIB_LOG_DIR names another place.
func LogDir() string {
	if d := os.Getenv("ROBIB_LOG_DIR"); d != "" {
		return d
	}
	return "/var/log/robib-ublk"
}

// CheckPlaces makes the directories of state, sockets and messages where they are missing, and names the
// first that this user cannot write to.
func CheckPlaces() error {
	for _, p := range []struct {
		what, dir, env string
		mode           os.FileMode
	}{{"state", State(), "ROBIB_STATE_DIR", 0o700}, {"run", control.RunDir(), "ROBIB_RUN_DIR", 0o700}, {"log", LogDir(), "ROBIB_LOG_DIR", 0o755}} {
		err := os.MkdirAll(p.dir, p.mode)
		if err == nil {
			err = unix.Access(p.dir, unix.R_OK|unix.W_OK|unix.X_OK)
		}
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		if err != nil {
			return fmt.Errorf("the %s directory %s cannot be used by user %d (%w): name another one in %s, or be root", p.what, p.dir, os.Geteuid(), err, p.env)
		}
	}
	return nil
}
