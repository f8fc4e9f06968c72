package volume

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/link"
)

// nobody runs the program as a user without any rights.
type nobody struct {
	t        *testing.T
	exe, dir string
	env      []string
}

const nobodyID = 65534

func newNobody(t *testing.T) *nobody {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	// t.TempDir's is closed to others.
	dir, err := os.MkdirTemp("", "robib-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &nobody{t: t, exe: filepath.Join(dir, "robib-ublk"), dir: dir}
	if err := os.Chown(dir, nobodyID, nobodyID); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", n.exe, "../../robib-ublk")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"STATE", "RUN", "LOG"} {
		n.env = append(n.env, "ROBIB_"+name+"_DIR="+filepath.Join(dir, name))
	}
	return n
}

func (n *nobody) run(args ...string) (text string, code int) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.exe, args...)
	cmd.Env, cmd.Dir = append([]string{"PATH=/usr/bin:/bin"}, n.env...), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobodyID, Gid: nobodyID}}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// A secondary needs no rights but those to its files: it is served, paired, filled and stopped by a user
// that has no others. What it cannot do is said in one line.
func TestSecondaryWithoutRoot(t *testing.T) {
	n, m := newNobody(t), newMachines(t)
	data := randomBytes(testDiskBytes)
	disk := filepath.Join(n.dir, "disk")
	if err := os.WriteFile(disk, make([]byte, testDiskBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	serve := []string{"serve", "--name", "s", "--disk", disk, "--listen", addr, "--log-size", "16"}
	refused := func(why string, args ...string) {
		t.Helper()
		if out, code := n.run(args...); code != 1 || !strings.Contains(out, why) || strings.Count(out, "\n") != 1 {
			t.Errorf("%q: exit %d: %s", args, code, out)
		}
	}
	refused("permission denied", serve...) // the disk is another user's
	if err := os.Chown(disk, nobodyID, nobodyID); err != nil {
		t.Fatal(err)
	}
	env := n.env
	for i, what := range []string{"state directory /proc/robib", "run directory /proc/robib", "log directory /proc/robib"} {
		n.env = append([]string(nil), env...)
		n.env[i] = strings.Split(env[i], "=")[0] + "=/proc/robib"
		refused("the "+what+" cannot be used by user 65534", serve...)
	}
	n.env = env
	refused("this needs root", "add", "--disk", disk)

	out, code := n.run(serve...)
	token := regexp.MustCompile(`--pair (\S+)`).FindStringSubmatch(out)
	if code != 0 || token == nil {
		t.Fatalf("exit %d: %s", code, out)
	}
	stopped := false
	defer func() {
		if !stopped {
			n.run("stop", "s")
		}
	}()
	key, trust, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := link.Pair(ctx, []string{addr}, token[1], key, trust, addr); err != nil {
		t.Fatal(err)
	}
	m.pri = m.serve(Request{Role: Primary, Name: "p", Disk: m.file("p", testDiskBytes, data), Remote: addr})
	m.until(m.pri, "in sync", func() bool { return m.pri.stack.node.Status().State == mirror.StateInSync })
	if out, code := n.run("destage", "s"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	m.stop(m.pri)
	refused("root", "promote", "s") // and it stays what it is
	if out, code = n.run("status", "s"); code != 3 || !strings.Contains(out, "secondary") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code = n.run("stop", "s"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	stopped = true
	m.same(disk, data)
}
