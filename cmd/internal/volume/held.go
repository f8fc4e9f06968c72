package volume

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Held says what uses block device dev (such as /dev/ublkb0) or one of its partitions, or "".
// Mounts are found in every mount namespace the exclusive open can see: the open has the last word.
func Held(dev string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		return "", fmt.Errorf("%s: %w", dev, err)
	}
	name := filepath.Base(dev)
	sys := filepath.Join("/sys/class/block", name)
	nodes := map[string]string{fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)): dev}
	parts, err := os.ReadDir(sys)
	if err != nil {
		return "", err
	}
	for _, p := range parts {
		if b, err := os.ReadFile(filepath.Join(sys, p.Name(), "dev")); err == nil && strings.HasPrefix(p.Name(), name) {
			nodes[strings.TrimSpace(string(b))] = "/dev/" + p.Name()
		}
	}
	if s, err := mounted(nodes); s != "" || err != nil {
		return s, err
	}
	for _, n := range nodes {
		h, err := os.ReadDir(filepath.Join("/sys/class/block", filepath.Base(n), "holders"))
		if err == nil && len(h) > 0 {
			return fmt.Sprintf("%s is held by %s", n, h[0].Name()), nil
		}
	}
	f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EBUSY) {
		return dev + " is in use", nil
	}
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return openedFor(nodes, "/proc", openWait)
}

// openWait is how long an open device is looked at again: what probes a disk that was written (udev, say) is soon gone.
const openWait = 2 * time.Second

// openedFor says which process still has one of nodes ("major:minor" to path) open after wait, or "".
func openedFor(nodes map[string]string, proc string, wait time.Duration) (string, error) {
	for end := time.Now().Add(wait); ; time.Sleep(poll) {
		s, err := opened(nodes, proc)
		if s == "" || err != nil || time.Now().After(end) {
			return s, err
		}
	}
}

// opened finds the first process that has one of nodes open.
func opened(nodes map[string]string, proc string) (string, error) {
	fds, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return "", err
	}
	for _, fd := range fds {
		// Of what else is open not even the type is asked: a file on a dead network mount would not answer.
		if to, err := os.Readlink(fd); err != nil || !strings.HasPrefix(to, "/dev/") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue
		}
		if n, ok := nodes[fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))]; ok {
			dir := filepath.Dir(filepath.Dir(fd))
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			return fmt.Sprintf("%s is open in %s (process %s)", n, strings.TrimSpace(string(name)), filepath.Base(dir)), nil
		}
	}
	return "", nil
}

// mounted finds the first mount or swap area on one of nodes ("major:minor" to path).
func mounted(nodes map[string]string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		// proc(5): id parent major:minor root mount-point …
		if w := strings.Fields(s.Text()); len(w) > 4 {
			if n, ok := nodes[w[2]]; ok {
				return fmt.Sprintf("%s is mounted on %s", n, w[4]), nil
			}
		}
	}
	if err := s.Err(); err != nil {
		return "", err
	}
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return "", err
	}
	for _, n := range nodes {
		if strings.Contains(string(b), n+" ") {
			return n + " is a swap area in use", nil
		}
	}
	return "", nil
}
