package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/mirror/link"
)

// A server notes which device is its volume's, so that the next one finds it again.

func devicePath(name string) string { return filepath.Join(control.RunDir(), name+".device") }

func readDevice(name string) (id int, ok bool) {
	b, err := os.ReadFile(devicePath(name))
	if err != nil {
		return 0, false
	}
	id, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return id, err == nil
}

func writeDevice(name string, id int) error {
	return writeFile(devicePath(name), []byte(strconv.Itoa(id)+"\n"))
}

func removeDevice(name string) error {
	if err := os.Remove(devicePath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// While a volume is remote a note says so: a server in a dead one's place then asks the peer before it
// serves, whatever disk and log look like. It lies where it outlives the process, and no more.

func remotePath(name string) string { return filepath.Join(control.RunDir(), name+".remote") }

func noteRemote(name string) error {
	if err := os.MkdirAll(control.RunDir(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(remotePath(name), nil, 0o600)
}

func wasRemote(name string) bool {
	_, err := os.Stat(remotePath(name))
	return err == nil
}

func forgetRemote(name string) error {
	if err := os.Remove(remotePath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Identity is this machine's key and the keys it trusts.
func Identity() (*link.Key, *link.Trust, error) {
	key, err := link.LoadOrCreateKey(filepath.Join(State(), "key.pem"))
	if err != nil {
		return nil, nil, err
	}
	trust, err := link.OpenTrust(filepath.Join(State(), "trusted.json"))
	return key, trust, err
}
