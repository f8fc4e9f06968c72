//go:build vm

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is a machine of its own as far as the network goes: a namespace at one end of a veth pair.
type host struct {
	t               *testing.T
	name, addr, nic string
}

// hosts makes two machines that only a cable joins.
func hosts(t *testing.T) (a, b host) {
	t.Helper()
	a, b = host{t, "a", "10.77.0.1", "va"}, host{t, "b", "10.77.0.2", "vb"}
	t.Cleanup(func() { try("ip", "netns", "del", "a"); try("ip", "netns", "del", "b") })
	run(t, "ip", "netns", "add", "a")
	run(t, "ip", "netns", "add", "b")
	run(t, "ip", "link", "add", a.nic, "netns", "a", "type", "veth", "peer", "name", b.nic, "netns", "b")
	for _, h := range []host{a, b} {
		run(t, "ip", "-n", h.name, "addr", "add", h.addr+"/24", "dev", h.nic)
		run(t, "ip", "-n", h.name, "link", "set", h.nic, "up")
		run(t, "ip", "-n", h.name, "link", "set", "lo", "up")
	}
	return a, b
}

// robib runs the command on that machine. Only the network is another one, so that what is mounted
// here is mounted there.
func (h host) robib(args ...string) (out string) {
	h.t.Helper()
	err := error(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread stays in the namespace and dies with this goroutine
		var f *os.File
		if f, err = os.Open("/run/netns/" + h.name); err != nil {
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		var b []byte
		b, err = exec.Command("robib-ublk", unprobed(args)...).CombinedOutput()
		out = string(b)
	}()
	<-done
	if err != nil {
		h.t.Fatalf("robib-ublk %s on host %s: %v\n%s", strings.Join(args, " "), h.name, err, out)
	}
	return out
}

// serve makes the second copy of a volume there, and gives the pairing token.
func (h host) serve(name, disk, log, port string) string {
	h.t.Helper()
	return pairing(h.t, h.robib("serve", "--name", name, "--disk", disk, "--log", log, "--create-log", "--listen", h.addr+":"+port))
}

// wire sets what the cable does to what h sends; nothing: it is a good one again.
func (h host) wire(netem ...string) {
	h.t.Helper()
	if len(netem) == 0 {
		run(h.t, "tc", "-n", h.name, "qdisc", "del", "dev", h.nic, "root")
		return
	}
	run(h.t, "tc", append([]string{"-n", h.name, "qdisc", "replace", "dev", h.nic, "root", "netem"}, netem...)...)
}

// apart makes a mirrored volume "p" on host a with its copy "s" on host b.
func apart(t *testing.T, mode string) (p *pair, a, b host) {
	t.Helper()
	a, b = hosts(t)
	diskA, diskB := smaller(t)
	blank(t, diskA, diskB, logA, logB)
	run(t, "sh", "-c", "rm -f /var/log/robib-ublk/p.log /var/log/robib-ublk/s.log") // of the tests before
	token := b.serve("s", diskB, logB, "7789")
	t.Log(a.robib("add", "--name", "p", "--disk", diskA, "--log", logA, "--create-log", "--remote", b.addr+":7789", "--pair", token, "--mode", mode, "--peer-dead", "3s"))
	p = &pair{t: t, Dev: stat(t, "p").Device, disks: [2]string{diskA, diskB}}
	inSync(t, "p")
	return p, a, b
}

// A bad cable delays, reorders and loses packets; then nothing goes through one way, then the other
// (half open: nobody is told). fio notices nothing of it.
func TestBadCable(t *testing.T) {
	p, a, b := apart(t, "sync")
	for _, h := range []host{a, b} {
		h.wire("delay", "2ms", "1ms", "25%", "loss", "0.5%", "rate", "100mbit")
	}
	fio(t, p.Dev, "4k", 8)
	fio(t, p.Dev, "512-128k", 16)
	inSync(t, "p")
	ended, wait := background(t, p.Dev, job{"4k", 24, 1}, job{"512-128k", 24, 1})
	for _, h := range []host{a, b} {
		pause(ended, 2)
		h.wire("loss", "100%")
		until(t, "degraded although the link looks open", func() bool { return stat(t, "p").State == "degraded" })
		h.wire()
		inSync(t, "p")
	}
	wait()
	p.end()
}

// The link is slower than the writes, and its frames take longer than the peer may be silent: the log absorbs it,
// status says so, the session goes on, and afterwards the peer catches up.
func TestSlowLink(t *testing.T) {
	p, a, _ := apart(t, "async")
	until(t, "a control connection", func() bool { return stat(t, "p").Control && stat(t, "s").Control })
	a.wire("rate", "2mbit")
	ended, wait := background(t, p.Dev, job{"4k", 48, 2}, job{"512k", 40, 2})
	until(t, "cannot keep up", func() bool { s := stat(t, "p"); return s.CannotKeepUp && s.BacklogBytes > 1<<20 })
	select {
	case <-ended:
		t.Error("fio ended before the link was found too slow")
	default:
	}
	a.wire()
	wait()
	until(t, "level", func() bool { s := stat(t, "p"); return s.State == "in sync" && s.BacklogBytes == 0 && !s.CannotKeepUp })
	for _, v := range []string{"p", "s"} {
		if log := events(t, v); !strings.Contains(log, "session ") || strings.Contains(log, "session up→down") {
			t.Errorf("the session of %s did not live through it:\n%s", v, log)
		}
	}
	p.end()
}

// halves cuts a disk in two.
func halves(t *testing.T, disk string) (out [2]string) {
	t.Helper()
	var sectors int
	if _, err := fmt.Sscan(run(t, "blockdev", "--getsz", disk), &sectors); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		name := "half" + itoa(i) + strings.ReplaceAll(disk, "/", "-")
		out[i] = mapper(t, name, "0 "+itoa(sectors/2)+" linear "+disk+" "+itoa(i*sectors/2))
	}
	blank(t, out[:]...)
	return out
}

// Two hosts back each other up, each the primary of one volume and the secondary of the other. Both are
// written at once; then one of them dies with both its roles, the other takes over, and it comes back.
func TestBackEachOther(t *testing.T) {
	a, b := hosts(t)
	da, db, la, lb := halves(t, dataA), halves(t, dataB), halves(t, logA), halves(t, logB)
	t1 := b.serve("one-copy", db[0], lb[0], "7789")
	t2 := a.serve("two-copy", da[1], la[1], "7789")
	a.robib("add", "--name", "one", "--disk", da[0], "--log", la[0], "--create-log", "--remote", b.addr+":7789", "--pair", t1)
	b.robib("add", "--name", "two", "--disk", db[1], "--log", lb[1], "--create-log", "--remote", a.addr+":7789", "--pair", t2)
	inSync(t, "one")
	inSync(t, "two")
	_, wait1 := background(t, stat(t, "one").Device, job{"512-128k", 16, 4})
	ended, wait2 := background(t, stat(t, "two").Device, job{"4k", 16, 1})
	wait1()
	pause(ended, 1)
	dies(t, "one")
	dies(t, "two-copy")
	until(t, "two goes on alone", func() bool { return stat(t, "two").State == "degraded" })
	until(t, "the loss of one is noticed", func() bool { return stat(t, "one-copy").State == "waiting for the primary" })
	robib(t, "promote", "one-copy")
	wait2()
	fio(t, stat(t, "one-copy").Device, "4k", 4)
	run(t, "sh", "-c", "rm -f /run/robib-ublk/one.* /run/robib-ublk/two-copy.*")
	a.robib("serve", "--name", "two-copy")
	inSync(t, "two")
	a.robib("demote", "one")
	inSync(t, "one-copy")
	for _, v := range []string{"one-copy", "two", "one", "two-copy"} {
		robib(t, "del", v)
	}
	same(t, da[0], db[0])
	same(t, da[1], db[1])
}
