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

// While a volume is remote, and from when it is fenced until it serves again, a note says so: the next server
// then asks the peer before it serves, whatever disk and log look like. It outlives the process, and no more.
type note string

const (
	remoteNote note = ".remote"
	fencedNote note = ".fenced"
)

func (k note) path(name string) string { return filepath.Join(control.RunDir(), name+string(k)) }

func (k note) make(name string) error {
	if err := os.MkdirAll(control.RunDir(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(k.path(name), nil, 0o600)
}

func (k note) there(name string) bool {
	_, err := os.Stat(k.path(name))
	return err == nil
}

func (k note) remove(name string) error {
	if err := os.Remove(k.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
