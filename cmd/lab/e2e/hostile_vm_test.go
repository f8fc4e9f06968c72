//go:build vm

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The secondary's listener, past the link that can be cut.
const listener = "127.0.0.1:7789"

// answer is how a connection ends that h says something on: an error, or what came back.
func answer(t *testing.T, h func(c net.Conn) error) error {
	t.Helper()
	c, err := net.Dial("tcp", listener)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	if err := h(c); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open, and said %q", b)
	}
	return err
}

// identity is a key that nobody trusts.
func identity(t *testing.T) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// At the secondary's port come random bytes, silence in great number, an old TLS, no key and an unknown one.
// Each is closed, the session goes on, and its own peer finds its place when it has to come anew.
func TestHostileConnections(t *testing.T) {
	p := newPair(t, "sync")
	pid := stat(t, "s").ServerPID
	open := func() int {
		d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal("its server has died: ", err)
		}
		return len(d)
	}
	before := open()
	for n := range 20 {
		if err := answer(t, func(c net.Conn) error {
			b := make([]byte, 1<<(n%14))
			rand.Read(b)
			c.Write(b) // the other end may be gone by then
			return c.(*net.TCPConn).CloseWrite()
		}); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Error(err)
		}
	}
	for name, conf := range map[string]*tls.Config{
		"TLS 1.2":     {MaxVersion: tls.VersionTLS12},
		"no key":      {},
		"another key": {Certificates: []tls.Certificate{identity(t)}},
	} {
		conf.InsecureSkipVerify = true // it is the other end that must refuse
		if err := answer(t, func(c net.Conn) error {
			s := tls.Client(c, conf)
			if err := s.Handshake(); err != nil {
				return err
			}
			_, err := s.Read(make([]byte, 1)) // in TLS 1.3 the client learns with its first read
			return err
		}); err == nil {
			t.Errorf("%s: taken", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	var silent []net.Conn
	for range 300 {
		c, err := net.DialTimeout("tcp", listener, 5*time.Second)
		if err != nil {
			break // its backlog is full
		}
		silent = append(silent, c)
	}
	fio(t, p.Dev, "4k", 2)
	p.Link.Cut()
	until(t, "degraded", func() bool { return stat(t, "p").State == "degraded" })
	p.Link.Restore()
	inSync(t, "p")
	t.Logf("in sync again beside %d silent connections; its server has %d files open, %d before", len(silent), open(), before)
	for _, c := range silent {
		c.Close()
	}
	until(t, "the files are closed", func() bool { return open() <= before+4 })
	if now := stat(t, "s").ServerPID; now != pid {
		t.Errorf("server %d died, now there is %d", pid, now)
	}
	p.end()
}

// The clock jumps by years, forth and back, under fio: nothing ends, nobody is dead, and machines whose clock is wrong
// find each other again.
func TestClockJumps(t *testing.T) {
	p := newPair(t, "sync")
	set := func(by time.Duration) {
		var tv syscall.Timeval
		if err := syscall.Gettimeofday(&tv); err != nil {
			t.Fatal(err)
		}
		tv.Sec += int64(by.Seconds())
		if err := syscall.Settimeofday(&tv); err != nil {
			t.Fatal(err)
		}
	}
	const years = 365 * 24 * time.Hour
	defer set(0)
	pids := [2]int{stat(t, "p").ServerPID, stat(t, "s").ServerPID}
	ended, wait := background(t, p.Dev, job{"4k", 8, 1})
	for _, by := range []time.Duration{12 * years, -20 * years, 8 * years} {
		pause(ended, 2)
		set(by)
		pause(ended, 1)
		if s := stat(t, "p"); s.State != "in sync" {
			t.Errorf("after a jump by %v: %s, %s", by, s.State, s.Reason)
		}
	}
	wait()
	set(15 * years)
	p.Link.Cut()
	until(t, "degraded", func() bool { return stat(t, "p").State == "degraded" })
	p.Link.Restore()
	inSync(t, "p")
	set(-15 * years)
	if got := [2]int{stat(t, "p").ServerPID, stat(t, "s").ServerPID}; got != pids {
		t.Errorf("servers %v were %v", got, pids)
	}
	p.end()
}

// Both machines' servers and supervisors die at once under fio, and come back in either order: fio has waited, and
// the two disks are equal.
func TestBothDie(t *testing.T) {
	p := newPair(t, "sync")
	for _, first := range []string{"p", "s"} {
		ended, wait := background(t, p.Dev, job{"4k", 12, 2})
		pause(ended, 2)
		dies(t, "p")
		dies(t, "s")
		for _, name := range map[string][]string{"p": {"p", "s"}, "s": {"s", "p"}}[first] {
			if name == "p" {
				robib(t, "recover", "p")
				continue
			}
			run(t, "sh", "-c", "rm -f /run/robib-ublk/s.*")
			robib(t, "serve", "--name", "s")
		}
		wait()
		inSync(t, "p")
	}
	p.end()
}

// The control socket is root's: another user is refused in one line.
func TestAnotherUser(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--create-log")
	for _, args := range [][]string{{"status", "v"}, {"stop", "v"}, {"promote", "v"}} {
		cmd := exec.Command("robib-ublk", args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil || strings.Count(strings.TrimSpace(string(out)), "\n") > 0 || !strings.Contains(string(out), "root") && !strings.Contains(string(out), "permission denied") {
			t.Errorf("%v as another user: %v\n%s", args, err, out)
		}
	}
	var st syscall.Stat_t
	for path, mode := range map[string]uint32{"/run/robib-ublk": 0o700, "/run/robib-ublk/v.sock": 0o600} {
		if err := syscall.Stat(path, &st); err != nil || st.Mode&0o777 != mode || st.Uid != 0 {
			t.Errorf("%s: mode %o of user %d, %v", path, st.Mode&0o777, st.Uid, err)
		}
	}
	robib(t, "del", "v")
}

// A log that was put back to an earlier copy of itself is not replayed over a newer disk.
func TestOlderLog(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--log-size", "16", "--create-log")
	dev := stat(t, "v").Device
	fio(t, dev, "4k", 2)
	robib(t, "stop", "v")
	run(t, "dd", "if="+logA, "of=/tmp/older", "bs=1M", "count=17")
	robib(t, "add", "--name", "v")
	fio(t, dev, "4k", 2, "--randseed=7")
	robib(t, "stop", "v")
	run(t, "dd", "if="+logA, "of=/tmp/newer", "bs=1M", "count=17")
	run(t, "dd", "if=/tmp/older", "of="+logA, "bs=1M", "conv=fsync")
	refused(t, 1, "older copy of itself", "add", "--name", "v")
	run(t, "dd", "if=/tmp/newer", "of="+logA, "bs=1M", "conv=fsync")
	robib(t, "add", "--name", "v")
	fio(t, dev, "4k", 2, "--randseed=7", "--verify_only")
	robib(t, "del", "v")
}

// The log of a volume without a peer fails under it: what RAM has goes to the data disk, writes are refused from then on,
// and reads go on.
func TestLogLostAlone(t *testing.T) {
	blank(t, dataA)
	log, fail := failing(t, "lonely", logA)
	blank(t, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", log, "--create-log")
	dev := stat(t, "v").Device
	robib(t, "pause", "v", "destage")
	fio(t, dev, "4k", 4)
	if s := cacheOf(t, "v"); s.Dirty < 4<<20 {
		t.Errorf("only %d bytes are not destaged", s.Dirty)
	}
	fail()
	until(t, "writes are refused", func() bool {
		_, err := try("dd", "if=/dev/zero", "of="+dev, "bs=4k", "count=1", "seek=4096", "oflag=direct")
		return err != nil
	})
	run(t, "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
	fio(t, dev, "4k", 4, "--verify_only")
	until(t, "the data disk has it", func() bool {
		_, err := try("cmp", "-n", itoa(4<<20), dataA, dev)
		return err == nil
	})
	refused(t, 1, "del --force", "del", "v")
	robib(t, "stop", "v")
	t.Log(robib(t, "del", "--force", "v"))
}
