package volume

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	return "", f.Close()
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
