//go:build vm

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// mapped is a device-mapper device over one disk, of which the table can be changed.
type mapped struct {
	t       *testing.T
	name    string
	sectors string
}

func newMapped(t *testing.T, name, disk string) *mapped {
	t.Helper()
	m := &mapped{t, name, strings.TrimSpace(run(t, "blockdev", "--getsz", disk))}
	mapper(t, name, "0 "+m.sectors+" linear "+disk+" 0")
	return m
}

func (m *mapped) path() string { return "/dev/mapper/" + m.name }

// table puts another target in place, under the requests that come.
func (m *mapped) table(target string) {
	m.t.Helper()
	run(m.t, "dmsetup", "suspend", "--nolockfs", "--noflush", m.name)
	run(m.t, "dmsetup", "load", m.name, "--table", "0 "+m.sectors+" "+target)
	run(m.t, "dmsetup", "resume", m.name)
}

// direct opens a device past the page cache.
func direct(t *testing.T, path string, more int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT|more, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	return b[-uintptr(unsafe.Pointer(&b[0]))&4095:][:n:n]
}

// The data disk's blocks cannot be read any more, but written: what the log has comes from there, the
// rest from the peer, and nothing is lost or said to be.
func TestReadErrors(t *testing.T) {
	disk, disk2 := smaller(t)
	d := newMapped(t, "unreadable", disk)
	p := newPairOn(t, "sync", d.path(), logA, disk2)
	fio(t, p.Dev, "4k", 8)
	robib(t, "destage", "p")
	run(t, "dd", "if="+p.Dev, "bs=64k", "count=128", "iflag=direct", "of=/tmp/before")
	d.table("flakey " + disk + " 0 0 3600 1 error_reads")
	run(t, "dd", "if="+p.Dev, "bs=64k", "count=128", "iflag=direct", "of=/tmp/after")
	run(t, "cmp", "/tmp/before", "/tmp/after")
	if s := stat(t, "p"); s.PeerReads == 0 {
		t.Errorf("no read was served by the peer: %+v", s)
	}
	d.table("linear " + disk + " 0")
	if s := stat(t, "p").State; s == "remote" { // too many errors: the disk has failed
		robib(t, "replace-disk", "p", "--disk", d.path(), "--overwrite")
	}
	p.end()
}

// The data disk does not answer any more, and no error comes either: after its deadline it counts as
// failed, the peer stands in, and fio has only waited. What it was given late is then of no account.
func TestHangingDisk(t *testing.T) {
	disk, disk2 := smaller(t)
	d := newMapped(t, "hanging", disk)
	p := newPairOn(t, "sync", d.path(), logA, disk2)
	robib(t, "set", "p", "disk-deadline=10s")
	ended, wait := background(t, p.Dev, job{"4k", 8, 1}, job{"512-128k", 8, 1})
	pause(ended, 2)
	run(t, "dmsetup", "suspend", "--nolockfs", "--noflush", d.name)
	go try("robib-ublk", "destage", "p") // so that the disk is asked
	until(t, "remote", func() bool { return stat(t, "p").State == "remote" })
	run(t, "dd", "if="+p.Dev, "of=/dev/null", "bs=1M", "count=64", "iflag=direct")
	run(t, "dmsetup", "resume", d.name)
	wait()
	robib(t, "replace-disk", "p", "--disk", d.path(), "--overwrite")
	p.end()
}

// The server is killed while its disk hangs: past the disk's deadline the next one goes on without it, under the same
// device, and the peer stands in. Nobody gets the disk before it has answered.
func TestKilledWhileTheDiskHangs(t *testing.T) {
	disk, disk2 := smaller(t)
	d := newMapped(t, "hanging", disk)
	p := newPairOn(t, "sync", d.path(), logA, disk2)
	robib(t, "set", "p", "disk-deadline=10s")
	ended, wait := background(t, p.Dev, job{"4k", 8, 1})
	pause(ended, 2)
	run(t, "dmsetup", "suspend", "--nolockfs", "--noflush", d.name)
	go try("robib-ublk", "destage", "p") // so that the disk is asked
	pause(ended, 2)
	run(t, "kill", "-9", itoa(stat(t, "p").ServerPID))
	until(t, "remote", func() bool { return stat(t, "p").State == "remote" })
	if s := stat(t, "p"); s.Device != p.Dev {
		t.Errorf("the device is %q, was %q", s.Device, p.Dev)
	}
	if log := events(t, "p"); !strings.Contains(log, "the disk has failed, 10s after the server died") || strings.Contains(log, "the log has failed") {
		t.Error(log)
	}
	run(t, "dd", "if="+p.Dev, "of=/dev/null", "bs=1M", "count=64", "iflag=direct")
	refused(t, 1, "in use", "replace-disk", "p", "--disk", d.path(), "--overwrite")
	run(t, "dmsetup", "resume", d.name)
	wait()
	until(t, "the dead server's ring lets go of the disk", func() bool {
		_, err := try("robib-ublk", "replace-disk", "p", "--disk", d.path(), "--overwrite")
		return err == nil
	})
	inSync(t, "p")
	p.end()
}

// The log is far smaller than what is written: it wraps many times, under fio and under a file system.
func TestLogWraps(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "v", "--disk", dataA, "--log", logA, "--log-size", "16", "--create-log")
	dev := stat(t, "v").Device
	fio(t, dev, "4k", 24)
	fio(t, dev, "512-128k", 40)
	run(t, "mkfs.ext4", "-q", "-F", dev)
	run(t, "mount", dev, mnt)
	g := NewFSGen(mnt+"/gen", 2)
	if err := os.Mkdir(mnt+"/gen", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.Run(300); err != nil {
		t.Fatal(err)
	}
	run(t, "dd", "if=/dev/urandom", "of="+mnt+"/large", "bs=1M", "count=32")
	kill9(t, "v")
	run(t, "sh", "-c", "md5sum "+mnt+"/large > /tmp/large")
	run(t, "umount", mnt)
	run(t, "e2fsck", "-f", "-n", dev)
	run(t, "mount", dev, mnt)
	if err := g.Compare(mnt + "/gen"); err != nil {
		t.Error(err)
	}
	run(t, "md5sum", "-c", "/tmp/large")
	run(t, "umount", mnt)
	robib(t, "del", "v")
	run(t, "e2fsck", "-f", "-n", dataA)
}

// A block of the log rots while the server is away: with a peer it is fetched from there, without one
// the volume is refused and the offline tools say what is lost.
func TestRottenLog(t *testing.T) {
	rot := func(dev string) {
		t.Helper()
		marker := bytes.Repeat([]byte("rotten-log-test."), 256)
		f := direct(t, dev, 0)
		b := aligned(4096)
		for i := range 64 {
			copy(b, marker)
			binary.LittleEndian.PutUint64(b, uint64(i))
			if _, err := f.WriteAt(b, int64(i)*8192); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	spoil := func(log string, nth uint64) {
		t.Helper()
		f := direct(t, log, 0)
		b := aligned(1 << 20)
		for off := int64(0); ; off += int64(len(b)) {
			n, err := f.ReadAt(b, off)
			for at := 0; at+16 <= n; at += 512 {
				if binary.LittleEndian.Uint64(b[at:]) == nth && string(b[at+16:at+32]) == "rotten-log-test." {
					rand.NewChaCha8([32]byte{}).Read(b[at : at+512])
					if _, err := f.WriteAt(b[at:at+512], off+int64(at)); err != nil {
						t.Fatal(err)
					}
					f.Close()
					return
				}
			}
			if err == io.EOF {
				t.Fatalf("block %d is not in the log", nth)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("with a peer", func(t *testing.T) {
		p := newPair(t, "sync")
		robib(t, "pause", "p", "destage")
		robib(t, "pause", "s", "destage") // what it has destaged its log may have no more
		rot(p.Dev)
		robib(t, "stop", "p")
		spoil(logA, 20)
		out := robib(t, "add", "--name", "p")
		p.Dev = stat(t, "p").Device
		inSync(t, "p")
		robib(t, "resume", "p", "destage")
		robib(t, "resume", "s", "destage")
		if log := events(t, "p"); !strings.Contains(log, "peer") {
			t.Errorf("nothing says that the peer helped:\n%s\n%s", out, log)
		}
		p.end()
		run(t, "cmp", "-n", "524288", dataA, dataB)
	})
	t.Run("alone", func(t *testing.T) {
		blank(t, dataA, logA)
		robib(t, "add", "--name", "rot", "--disk", dataA, "--log", logA, "--create-log")
		robib(t, "pause", "rot", "destage")
		rot(stat(t, "rot").Device)
		robib(t, "stop", "rot")
		spoil(logA, 20)
		refused(t, 1, "rescue", "add", "--name", "rot")
		out, err := try("robib-ublk", "log", "check", logA)
		if err == nil || !strings.Contains(out, "rescue") {
			t.Errorf("log check: %v\n%s", err, out)
		}
		out, _ = try("robib-ublk", "log", "rescue", logA, "--disk", dataA, "--write")
		if !strings.Contains(out, "LOST") {
			t.Errorf("rescue:\n%s", out)
		}
		f := direct(t, dataA, 0)
		b := aligned(4096)
		for i := range 64 {
			if _, err := f.ReadAt(b, int64(i)*8192); err != nil {
				t.Fatal(err)
			}
			if whole := binary.LittleEndian.Uint64(b) == uint64(i) && string(b[16:32]) == "rotten-log-test."; whole != (i != 20) {
				t.Errorf("block %d: there %v", i, whole)
			}
		}
		robib(t, "del", "--force", "rot")
	})
}

// Entries of dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), sectors of 512 bytes.
const (
	lwMagic   = 0x6a736677736872
	lwFlush   = 1
	lwFUA     = 2
	lwDiscard = 4
	lwMark    = 8
)

type lwEntry struct {
	sector, n, flags uint64
	data             []byte // of a write, or the mark
}

func readWrites(t *testing.T, dev string) (out []lwEntry) {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 512)
	at := int64(0)
	take := func(b []byte) []byte {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		at += int64(len(b))
		return b
	}
	le := binary.LittleEndian
	take(head)
	if le.Uint64(head) != lwMagic || le.Uint32(head[24:]) != 512 {
		t.Fatalf("not a log of writes: % x", head[:32])
	}
	for range le.Uint64(head[16:]) {
		take(head)
		e := lwEntry{sector: le.Uint64(head), n: le.Uint64(head[8:]), flags: le.Uint64(head[16:])}
		switch {
		case e.flags&lwMark != 0:
			e.data = bytes.Clone(head[32 : 32+le.Uint64(head[24:])])
		case e.flags&lwDiscard == 0:
			e.data = take(make([]byte, e.n*512))
		}
		out = append(out, e)
	}
	return out
}

// Every write of log and data disk is recorded in order, and the power is cut at many points of that
// record: at, before and between flushes, of what was not flushed a random part survives. Each time
// every write that had been acknowledged is there.
func TestPowerCuts(t *testing.T) {
	const dataMiB, logMiB, writes, cuts = 24, 16, 400, 12
	blank(t, dataA, logA, dataB)
	span := (dataMiB + logMiB) << 11
	recorded := mapper(t, "recorded", fmt.Sprintf("0 %d log-writes %s %s", span, dataA, logA))
	split := func(under string) {
		t.Helper()
		at := 0
		for _, x := range []struct {
			name string
			mib  int
		}{{"cut-data", dataMiB}, {"cut-log", logMiB}} {
			mapper(t, x.name, fmt.Sprintf("0 %d linear %s %d", x.mib<<11, under, at))
			at += x.mib << 11
		}
	}
	split(recorded)
	img := aligned(span << 9)
	before := direct(t, dataA, 0)
	if _, err := before.ReadAt(img, 0); err != nil {
		t.Fatal(err)
	}
	before.Close()

	robib(t, "add", "--name", "cut", "--disk", "/dev/mapper/cut-data", "--log", "/dev/mapper/cut-log", "--create-log")
	const blocks = 256
	put := func(dev *os.File, i int) {
		b := aligned(4096)
		for at := 0; at < len(b); at += 8 {
			binary.LittleEndian.PutUint64(b[at:], uint64(i))
		}
		if _, err := dev.WriteAt(b, int64(i*7%blocks)*8192); err != nil {
			t.Fatal(err)
		}
	}
	dev := direct(t, stat(t, "cut").Device, syscall.O_DSYNC)
	for i := 1; i <= writes; i++ {
		put(dev, i)
		if i%10 == 0 {
			run(t, "dmsetup", "message", "recorded", "0", "mark", fmt.Sprint("ack-", i))
		}
		if i%100 == 0 {
			robib(t, "destage", "cut")
		}
	}
	dev.Close()
	robib(t, "stop", "cut")
	for _, n := range []string{"cut-data", "cut-log", "recorded"} {
		run(t, "dmsetup", "remove", "--retry", n)
	}
	entries := readWrites(t, logA)
	first := 0 // the first write that the client was told of, before which there may be no log yet
	for i, e := range entries {
		if string(e.data) == "ack-10" {
			first = i
		}
	}
	t.Logf("%d entries, %d of them after the first acknowledged writes", len(entries), len(entries)-first)
	split(dataB)
	r := rand.New(rand.NewPCG(1, 2))
	apply := func(img []byte, e lwEntry) {
		if e.flags&(lwMark|lwDiscard) == 0 {
			copy(img[e.sector<<9:], e.data)
		}
	}
	done, acked := 0, 0
	out := direct(t, dataB, 0)
	for c := range cuts {
		at := first + 1 + (len(entries)-first-1)*(c+1)/cuts - r.IntN((len(entries)-first)/cuts)
		for ; done < at; done++ {
			apply(img, entries[done])
			if m, ok := strings.CutPrefix(string(entries[done].data), "ack-"); ok && entries[done].flags&lwMark != 0 {
				fmt.Sscan(m, &acked)
			}
		}
		// Of what comes until the next flush some is there as well.
		cut := aligned(len(img))
		copy(cut, img)
		issued, more := acked+10, 0
		for _, e := range entries[done:] {
			if e.flags&(lwFlush|lwFUA) != 0 || e.flags&lwMark != 0 {
				break
			}
			if r.IntN(2) == 0 {
				apply(cut, e)
				more++
			}
		}
		if _, err := out.WriteAt(cut, 0); err != nil {
			t.Fatal(err)
		}
		robib(t, "add", "--name", "cut", "--accept-log") // it was served on since
		v := direct(t, stat(t, "cut").Device, 0)
		b := aligned(4096)
		for k := range blocks {
			if _, err := v.ReadAt(b, int64(k)*8192); err != nil {
				t.Fatal(err)
			}
			// Versions of a block are 256 writes apart.
			got := int(binary.LittleEndian.Uint64(b))
			newest := 0
			for i := acked; i > max(acked-blocks, 0); i-- {
				if i*7%blocks == k {
					newest = i
					break
				}
			}
			if !bytes.Equal(b[:8], b[4088:]) || got < newest || got > issued || got > 0 && got*7%blocks != k {
				t.Errorf("cut %d, entry %d, %d acknowledged: block %d holds write %d, at least %d was promised", c, at, acked, k, got, newest)
			}
		}
		v.Close()
		robib(t, "stop", "cut")
		t.Logf("cut at entry %d with %d more: %d writes acknowledged, all there", at, more, acked)
	}
	robib(t, "add", "--name", "cut")
	robib(t, "del", "cut")
}

// The data disk is mounted and written while its volume's server is dead: its log is not replayed over that.
func TestUsedBehind(t *testing.T) {
	blank(t, dataA, logA)
	robib(t, "add", "--name", "used", "--disk", dataA, "--log", logA, "--create-log")
	dev := stat(t, "used").Device
	run(t, "mkfs.ext4", "-q", "-F", dev)
	robib(t, "destage", "used")
	run(t, "mount", dev, mnt)
	run(t, "sh", "-c", "echo kept > "+mnt+"/f && sync")
	run(t, "umount", mnt)
	robib(t, "stop", "used")
	run(t, "mount", dataA, mnt)
	run(t, "sh", "-c", "echo other > "+mnt+"/g")
	run(t, "umount", mnt)
	refused(t, 1, "changed behind", "add", "--name", "used")
	robib(t, "add", "--name", "used", "--accept-disk")
	robib(t, "del", "used")
}
