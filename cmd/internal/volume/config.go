package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// StateDir is where configurations and default logs live, unless ROBIB_STATE_DIR names another place.
const StateDir = "/var/lib/robib-ublk"

// State is the state directory in use.
func State() string {
	if d := os.Getenv("ROBIB_STATE_DIR"); d != "" {
		return d
	}
	return StateDir
}

// Role is which half of a volume this machine is.
type Role string

// Roles.
const (
	Primary   Role = "primary"
	Secondary Role = "secondary"
)

// Config is what a machine remembers of a volume between runs.
type Config struct {
	Name         string `json:"name"`
	Role         Role   `json:"role"`
	Volume       string `json:"volume_uuid"` // "" until a new secondary has met its primary
	LogID        string `json:"log_uuid"`
	Disk         string `json:"disk"`
	DiskID       string `json:"disk_identity"`
	DiskBytes    int64  `json:"disk_bytes"`
	DiskBlock    int    `json:"disk_block_bytes"`
	Log          string `json:"log"`
	LogBytes     int64  `json:"log_bytes"`
	LogOwned     bool   `json:"log_owned"` // the log is a file we made: forgotten volumes take it along
	Remote       string `json:"remote,omitempty"`
	Listen       string `json:"listen,omitempty"`
	Mode         string `json:"mode"`
	Plain        bool   `json:"encrypt_off,omitempty"`   // after the handshake
	DeviceID     int    `json:"device_id"`               // wanted ublk id; -1 any
	OnDisconnect string `json:"on_disconnect,omitempty"` // "": continue
	Queues       int    `json:"queues,omitempty"`        // hardware queues; 0: one
	BypassMiB    int    `json:"bypass_mib,omitempty"`    // of a sequential run after which writes go past the log; 0: the default, -1: never
	RAMBytes     int64  `json:"ram_bytes,omitempty"`
	Ordered      bool   `json:"ordered,omitempty"`
	WriteCache   bool   `json:"write_cache,omitempty"`
	LowWater     int    `json:"low_water_percent,omitempty"` // 0: the default
	HighWater    int    `json:"high_water_percent,omitempty"`
	RateLimit    int64  `json:"rate_limit_bytes_per_second,omitempty"` // of data sent to the peer
	Compress     string `json:"compress,omitempty"`                    // zstd; "" is off
	Metrics      string `json:"metrics,omitempty"`                     // where they are served, [HOST]:PORT; "" is nowhere
	Heartbeat    int64  `json:"heartbeat_ms,omitempty"`                // 0: the default
	PeerDead     int64  `json:"peer_dead_ms,omitempty"`                // silence after which the peer counts as dead; 0: the default
	StartWait    int64  `json:"start_wait_ms,omitempty"`               // how long a primary that starts asks for its peer; 0: the default
	RemoteWait   int64  `json:"remote_wait_ms,omitempty"`              // how long a remote volume's I/O waits for the peer; 0: the default
	DiskDeadline int64  `json:"disk_deadline_ms,omitempty"`            // within which disk and log must answer; 0: the default
	NoLatency    bool   `json:"latency_off,omitempty"`
	NoDestage    bool   `json:"destage_paused,omitempty"`
	NoResync     bool   `json:"resync_paused,omitempty"`
	Apart        bool   `json:"disconnected,omitempty"` // by the user
	PeerKey      string `json:"peer_key,omitempty"`     // fingerprint of the pinned peer
	Overwrite    bool   `json:"overwrite,omitempty"`
	Demoted      bool   `json:"demoted,omitempty"`     // a stopped primary shall come back as a secondary
	FirstAlone   bool   `json:"first_alone,omitempty"` // --degraded-ok at the first add
}

var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// CheckName refuses what would not be a good file name.
func CheckName(n string) error {
	if !nameRE.MatchString(n) {
		return Usagef("volume name %q: use 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit", n)
	}
	return nil
}

// DefaultName derives a volume name from its disk: /dev/sdc gives sdc.
func DefaultName(disk string) string {
	b := strings.Trim(regexp.MustCompile(`[^a-zA-Z0-9_.-]+`).ReplaceAllString(filepath.Base(disk), "-"), "-.")
	if b == "" {
		b = "volume"
	}
	return b[:min(len(b), 64)]
}

func configPath(name string) string { return filepath.Join(State(), "volumes", name+".json") }

// ErrUnknown says that no volume of that name is configured.
var ErrUnknown = errors.New("no such volume")

// LoadConfig reads one volume's configuration.
func LoadConfig(name string) (*Config, error) {
	b, err := os.ReadFile(configPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w here (`robib-ublk list` shows those there are)", name, ErrUnknown)
	}
	if err != nil {
		return nil, err
	}
	c := new(Config)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s: %w", configPath(name), err)
	}
	return c, nil
}

// Save writes the configuration so that a crash leaves the old one or the new one.
func (c *Config) Save() error {
	b, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(configPath(c.Name), append(b, '\n'))
}

// Forget removes the configuration.
func (c *Config) Forget() error {
	err := os.Remove(logMarkPath(c.Name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(os.Remove(configPath(c.Name)), err, remoteNote.remove(c.Name), fencedNote.remove(c.Name))
}

// Configs lists all volumes, sorted by name.
func Configs() ([]*Config, error) {
	d, err := os.ReadDir(filepath.Join(State(), "volumes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*Config
	for _, e := range d {
		n, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		c, err := LoadConfig(n)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// writeFile replaces path durably: temporary file, fsync, rename, fsync of the directory.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// UsageError is the user's to mend: exit code 2.
type UsageError struct{ msg string }

func (e *UsageError) Error() string { return e.msg }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }
