package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is one use of the development runner: where it keeps things and where it talks.
type Lab struct {
	Cache string // kernels, images; the user's cache directory
	start time.Time
}

// New makes a lab with the cache in the user's cache directory.
func New() (*Lab, error) {
	c, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no cache directory (set HOME or XDG_CACHE_HOME): %w", err)
	}
	l := &Lab{Cache: filepath.Join(c, "robib-ublk"), start: time.Now()}
	return l, os.MkdirAll(l.Cache, 0o755)
}

// Say prints one line of progress on standard error.
func (l *Lab) Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "lab %5.1fs  %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, args...))
}

// Phase runs f and prints how long it took.
func (l *Lab) Phase(name string, f func() error) error {
	l.Say("%s …", name)
	begun := time.Now()
	err := f()
	verdict := "ok"
	if err != nil {
		verdict = "FAILED"
	}
	l.Say("%s: %s, %.1f s", name, verdict, time.Since(begun).Seconds())
	return err
}

// lock keeps other labs of this user out of name until unlock; who waits says so.
func (l *Lab) lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(l.Cache, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		l.Say("waiting for another lab to finish with %s", name)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
	}
	return func() { f.Close() }, nil
}
