package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/robib-ublk/robib/cmd/lab/e2e"
)

// The guest's disks: data and log of the primary, data and log of the second copy.
const (
	diskA, diskB = "/dev/vdb", "/dev/vdc"
	logA, logB   = "/dev/vdd", "/dev/vde"
	listen       = "127.0.0.1:7789"
	mnt          = "/mnt"
	failing      = "/dev/dm-0" // diskA behind a table that can be made to fail
)

// limit bounds each wait.
const limit = 5 * time.Minute

// show is one run of the demo.
type show struct {
	token string
	tree  e2e.Tree
	sums  e2e.Sums
	scene int
}

// Run plays all scenes; the first that does not hold ends it with an error.
func Run() error {
	s := &show{}
	for _, f := range []func() error{s.bareDisk, s.serve, s.add, s.sameFiles, s.copyAndKill, s.diskFails, s.primaryLost, s.diskAlone} {
		if err := f(); err != nil {
			return err
		}
	}
	say("")
	say("Every file is as it was written. That is robib-ublk.")
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func (s *show) title(text string) {
	s.scene++
	say("\n== %d. %s", s.scene, text)
}

// sh shows a command, runs it, shows what it prints.
func sh(args ...string) (string, error) {
	say("$ %s", strings.Join(args, " "))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	b, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	out := strings.TrimRight(string(b), "\n")
	if out != "" {
		say("%s", out)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", args[0], err)
	}
	return out, err
}

// all runs commands one after the other, up to the first that fails.
func all(cmds ...[]string) error {
	for _, c := range cmds {
		if _, err := sh(c...); err != nil {
			return err
		}
	}
	return nil
}

func words(s string) []string { return strings.Fields(s) }

func (s *show) bareDisk() error {
	s.title("A disk with a file system and files, made without us")
	if err := diskTable("linear " + diskA + " 0"); err != nil {
		return err
	}
	if err := all(words("mkfs.ext4 -q "+failing), words("mount "+failing+" "+mnt)); err != nil {
		return err
	}
	say("$ echo 'written before robib-ublk' > %s/note", mnt)
	if err := os.WriteFile(mnt+"/note", []byte("written before robib-ublk\n"), 0o644); err != nil {
		return err
	}
	return all(words("umount " + mnt))
}

// diskTable makes, or replaces, the device that stands for the primary's disk.
func diskTable(target string) error {
	b, err := exec.Command("blockdev", "--getsz", diskA).Output()
	if err != nil {
		return err
	}
	table := "0 " + strings.TrimSpace(string(b)) + " " + target
	if _, err := os.Stat(failing); err != nil {
		_, err := sh("dmsetup", "--noudevsync", "create", "local-disk", "--table", table)
		return err
	}
	return all([]string{"dmsetup", "--noudevsync", "suspend", "--nolockfs", "--noflush", "local-disk"}, []string{"dmsetup", "load", "local-disk", "--table", table}, []string{"dmsetup", "--noudevrules", "--noudevsync", "resume", "local-disk"})
}

func (s *show) serve() error {
	s.title("The second machine: it holds the copy, and prints a pairing token")
	out, err := sh("robib-ublk", "serve", "--name", "copy", "--disk", diskB, "--log", logB, "--create-log", "--listen", listen)
	if err != nil {
		return err
	}
	for _, w := range strings.Fields(out) {
		if strings.HasPrefix(w, "robib1-") {
			s.token = w
		}
	}
	if s.token == "" {
		return errors.New("serve printed no token")
	}
	return nil
}

func (s *show) add() error {
	s.title("The first machine: the same disk, now with a live copy")
	if _, err := sh("robib-ublk", "add", "--name", "vol", "--disk", failing, "--log", logA, "--create-log", "--remote", listen, "--pair", s.token); err != nil {
		return err
	}
	if err := wait("in sync", func(v *status) bool { return v.State == "in sync" }); err != nil {
		return err
	}
	_, err := sh("robib-ublk", "status", "vol")
	return err
}

// status is what the demo reads of `robib-ublk -j status vol`.
type status struct {
	State     string `json:"state"`
	ServerPID int    `json:"server_pid"`
	PeerReads uint64 `json:"peer_reads_total"`
}

func read(name string) (v status, err error) {
	out, err := exec.Command("robib-ublk", "-j", "status", name).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return v, err
	}
	return v, json.Unmarshal(out, &v)
}

func wait(what string, ok func(v *status) bool) error {
	end := time.Now().Add(limit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := read("vol")
		if err == nil && ok(&v) {
			return nil
		}
		if <-tick.C; time.Now().After(end) {
			return fmt.Errorf("waited %v for: %s (now %s)", limit, what, v.State)
		}
	}
}

func (s *show) sameFiles() error {
	s.title("The same file system, from the new device")
	return all(words("mount /dev/ublkb0 "+mnt), words("cat "+mnt+"/note"))
}

// copyAndKill copies a source tree in and kills the server in the middle; nothing is typed.
func (s *show) copyAndKill() error {
	s.title("A large copy; the server is killed in the middle, and nobody notices")
	var err error
	if s.tree, err = e2e.SourceTree(); err != nil {
		return err
	}
	type end struct {
		sums e2e.Sums
		err  error
	}
	ended := make(chan end, 1)
	begun := time.Now()
	say("copying %s to %s/src …", s.tree, mnt)
	go func() {
		sums, err := s.tree.CopyTo(mnt + "/src")
		ended <- end{sums, err}
	}()
	select {
	case e := <-ended:
		s.sums, err = e.sums, errors.Join(e.err, errors.New("the copy was over before the server could be killed"))
		return err
	case <-time.After(3 * time.Second):
	}
	v, err := read("vol")
	if err != nil {
		return err
	}
	say("$ kill -9 %d    # the server", v.ServerPID)
	if err := syscall.Kill(v.ServerPID, syscall.SIGKILL); err != nil {
		return err
	}
	e := <-ended
	if e.err != nil {
		return fmt.Errorf("the copy saw an error: %w", e.err)
	}
	s.sums = e.sums
	say("copied %d files, %d MB, in %.0f s, without an error", s.sums.Files, s.sums.Bytes/1e6, time.Since(begun).Seconds())
	n, err := read("vol")
	if err != nil {
		return err
	}
	if n.ServerPID == v.ServerPID {
		return errors.New("the server was not replaced")
	}
	say("the server is %d now; its supervisor put it there", n.ServerPID)
	return wait("in sync", func(v *status) bool { return v.State == "in sync" })
}

func dropCaches() error {
	say("$ echo 3 > /proc/sys/vm/drop_caches")
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

func (s *show) diskFails() error {
	s.title("The local disk fails: reads and writes go on, from the second machine")
	if err := diskTable("error"); err != nil {
		return err
	}
	if err := dropCaches(); err != nil {
		return err
	}
	if err := s.sums.Compare(mnt + "/src"); err != nil {
		return fmt.Errorf("with the disk gone: %w", err)
	}
	say("all %d files read back, and their checksums are right", s.sums.Files)
	say("$ echo 'written without a disk' > %s/note2; sync", mnt)
	if err := os.WriteFile(mnt+"/note2", []byte("written without a disk\n"), 0o644); err != nil {
		return err
	}
	syscall.Sync()
	if err := wait("remote", func(v *status) bool { return v.State == "remote" }); err != nil {
		return err
	}
	sh("robib-ublk", "status", "vol") // exits 3: degraded
	v, err := read("vol")
	if err == nil && v.PeerReads == 0 {
		err = errors.New("the peer served no read")
	}
	say("reads that the second machine served: %d", v.PeerReads)
	return err
}

// primaryLost destroys the first machine: its processes, its disk, its log.
func (s *show) primaryLost() error {
	s.title("The first machine is lost altogether, and the second one takes over")
	v, err := read("vol")
	if err != nil {
		return err
	}
	if _, err := sh("umount", mnt); err != nil {
		return err
	}
	say("$ kill -9 …    # supervisor and server of the first machine; then its disk and log are zeroed")
	if err := killTree(v.ServerPID); err != nil {
		return err
	}
	for _, d := range []string{diskA, logA} {
		if err := zero(d); err != nil {
			return err
		}
	}
	end := time.Now().Add(limit)
	for {
		c, err := read("copy")
		if err == nil && c.State != "following" {
			break
		}
		if time.Now().After(end) {
			return errors.New("the second machine does not notice")
		}
		time.Sleep(200 * time.Millisecond)
	}
	out, err := sh("robib-ublk", "promote", "copy")
	if err != nil {
		return err
	}
	dev := ""
	for _, w := range strings.Fields(out) {
		if strings.HasPrefix(w, "/dev/ublkb") {
			dev = strings.TrimSuffix(w, ":")
		}
	}
	if err := all(words("mount "+dev+" "+mnt), words("cat "+mnt+"/note "+mnt+"/note2")); err != nil {
		return err
	}
	if err := s.sums.Compare(mnt + "/src"); err != nil {
		return fmt.Errorf("after the take-over: %w", err)
	}
	say("all %d files are there, and their checksums are right", s.sums.Files)
	return all(words("umount " + mnt))
}

// killTree kills a server and, first, its supervisor, so that nobody puts another one there.
func killTree(server int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", server))
	if err != nil {
		return err
	}
	after := string(b[strings.LastIndexByte(string(b), ')')+2:])
	var state string
	var parent int
	if _, err := fmt.Sscan(after, &state, &parent); err != nil || parent <= 1 {
		return fmt.Errorf("the server's supervisor: %d %w", parent, err)
	}
	return errors.Join(syscall.Kill(parent, syscall.SIGKILL), syscall.Kill(server, syscall.SIGKILL))
}

func zero(disk string) error {
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		if _, err := f.WriteAt(b[:min(int64(len(b)), size-off)], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (s *show) diskAlone() error {
	s.title("The volume is ended: the surviving disk alone holds everything, without us")
	if err := all(words("robib-ublk del copy"), words("mount "+diskB+" "+mnt), words("cat "+mnt+"/note "+mnt+"/note2")); err != nil {
		return err
	}
	if err := s.sums.Compare(mnt + "/src"); err != nil {
		return fmt.Errorf("on the bare disk: %w", err)
	}
	return all(words("umount " + mnt))
}
