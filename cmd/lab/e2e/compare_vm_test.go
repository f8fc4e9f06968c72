//go:build vm

package e2e

import (
	"strings"
	"testing"
)

// A volume is ended, its disk is written past us, and it begins anew: the whole disk is compared with the
// second machine's, and only what differs is sent.
func TestDelThenAddCompares(t *testing.T) {
	const mib = 1 << 20
	diskA, diskB := smaller(t)
	p := newPairOf(t, "sync", diskA, logA, diskB, logB)
	fio(t, p.Dev, "4k", 16)
	p.end()
	p.Link.Close()
	run(t, "sh", "-c", "dd if=/dev/urandom of="+diskA+" bs=1M seek=40 count=3 oflag=direct conv=notrunc 2>/dev/null")
	run(t, "sh", "-c", "dd if=/dev/urandom of="+diskB+" bs=4k seek=700 count=1 oflag=direct conv=notrunc 2>/dev/null")

	out := robib(t, "serve", "--name", "s", "--disk", diskB, "--log", logB, "--create-log", "--overwrite", "--listen", "127.0.0.1:7791")
	robib(t, "add", "--name", "p", "--disk", diskA, "--log", logA, "--create-log", "--remote", "127.0.0.1:7791", "--pair", pairing(t, out), "--mode", "sync")
	inSync(t, "p")
	s := stat(t, "p")
	t.Logf("%d bytes sent, %d equal", s.ResyncSent, s.ResyncSkipped)
	if differ := int64(3*mib + 4096); s.ResyncSent < differ || s.ResyncSent > differ*11/10+mib || s.ResyncSkipped == 0 {
		t.Errorf("%d bytes were sent, %d differ", s.ResyncSent, differ)
	}
	if out := robib(t, "status", "p"); !strings.Contains(out, "equal and not sent") {
		t.Error(out)
	}
	fio(t, s.Device, "4k", 8)
	p.end()
}
