package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/filedev"
)

const testDiskBytes = 8 << 20

// machines are a primary and its peer on real files, rings and sockets, without a block device.
type machines struct {
	t        *testing.T
	dir      string
	pri, sec *Server
	reattach bool
	died     int64 // as Inherited.Died
	discard  bool
	closed   map[*Server]chan error
}

// file makes a disk.
func (m *machines) file(name string, size int64, content []byte) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	b := make([]byte, size)
	copy(b, content)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machines) serve(q Request) *Server {
	m.t.Helper()
	s, err := m.try(q)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// try is serve that may be refused.
func (m *machines) try(q Request) (*Server, error) {
	m.t.Helper()
	q.LogBytes, q.DeviceID = 16<<20, -1
	p, err := Prepare(q)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for range 1000 {
		if !errors.Is(err, filedev.ErrInUse) {
			break
		}
		<-tick.C // the kernel lets go of an ended ring's files later
		p, err = Prepare(q)
	}
	if err != nil {
		return nil, err
	}
	s := newServer(ServerOptions{Config: p.Config, In: supervise.Inherited{Disk: p.Disk, Log: p.Log, Died: m.died}, New: p.New, Reattach: m.reattach, Discard: m.discard, AcceptLog: q.AcceptLog, Logf: m.t.Logf})
	s.stack = &stack{s: s}
	s.started.Store(true)
	opened := make(chan error, 1)
	closed := make(chan error, 1)
	go func() {
		s.stack.run(opened)
		if l := s.stack.loop; l != nil { // in the product it is the process's end that does this
			closed <- l.Close()
		}
	}()
	if err := <-opened; err != nil {
		p.Close()
		return nil, err
	}
	m.closed[s] = closed
	return s, nil
}

// stop ends a server as stop does, and lets go of its files.
func (m *machines) stop(s *Server) {
	s.stack.stop()
	m.died = supervise.Boottime()
	err := <-m.closed[s]
	for _, f := range []*os.File{s.o.In.Disk, s.o.In.Log} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		m.t.Error(err)
	}
}

// until waits for something to be so on a server's loop; only a hang fails it.
func (m *machines) until(s *Server, what string, look func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.await(ctx, func(string) {}, awaited{
		look: func() (bool, error) { return look(), nil }, tell: func() string { return "" },
		stopped: func() error { return errors.New("it never comes to that") },
	}); err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

// look runs f on a server's loop.
func (m *machines) look(s *Server, f func(n *mirror.Node)) {
	m.t.Helper()
	if err := s.stack.call(func() { f(s.stack.node) }); err != nil {
		m.t.Fatal(err)
	}
}

// status asks the primary.
func (m *machines) status() (st mirror.Status) {
	m.t.Helper()
	m.look(m.pri, func(n *mirror.Node) { st = n.Status() })
	return st
}

func (m *machines) inSync() {
	m.t.Helper()
	m.until(m.pri, "in sync", func() bool { return m.pri.stack.node.Status().State == mirror.StateInSync })
}

func newMachines(t *testing.T) *machines {
	m := &machines{t: t, dir: t.TempDir(), closed: map[*Server]chan error{}}
	t.Setenv("ROBIB_STATE_DIR", filepath.Join(m.dir, "state"))
	t.Setenv("ROBIB_RUN_DIR", filepath.Join(m.dir, "run"))
	if err := os.MkdirAll(State(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkLogDir(State()); err != nil {
		t.Skip(err)
	}
	key, trust, err := Identity()
	if err == nil {
		err = trust.Add("self", key.Fingerprint())
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func randomBytes(n int) []byte {
	b, r := make([]byte, n), rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (m *machines) same(path string, want []byte) {
	m.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got[:len(want)], want) {
		m.t.Errorf("%s does not hold what it should (%v)", filepath.Base(path), err)
	}
}

// A volume in use gets another disk: what cannot be one is refused and changes nothing, a good one is
// filled and is the volume's from then on, also for the next server; and the same one can be filled anew.
func TestReplaceDisk(t *testing.T) {
	m := newMachines(t)
	data := randomBytes(testDiskBytes)
	old, held := m.file("old", testDiskBytes, data), m.file("other", testDiskBytes, nil)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: held, Listen: "127.0.0.1:0"})
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: old, Remote: m.sec.stack.address()})
	replace := func(path string, overwrite bool) error {
		_, err := m.pri.Do(context.Background(), "replace-disk", control.Args{Disk: path, Overwrite: overwrite}, func(string) {})
		return err
	}
	m.inSync()
	for _, x := range []struct{ path, why string }{
		{m.file("small", testDiskBytes-4096, nil), "no smaller"}, {m.file("full", testDiskBytes, randomBytes(1<<16)), "--overwrite"}, {held, "in use"},
		{DefaultLogPath("a"), "in use"}, {filepath.Join(m.dir, "nothing"), "no such file"}, {m.dir, "disk"},
	} {
		if err := replace(x.path, false); err == nil || !strings.Contains(err.Error(), x.why) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", filepath.Base(x.path), err)
		}
	}
	if st := m.status(); st.State != mirror.StateInSync || m.pri.conf().Disk != old {
		t.Fatalf("what was refused left %s, %s", st.State, m.pri.conf().Disk)
	}
	if _, err := m.sec.Do(context.Background(), "replace-disk", control.Args{Disk: m.file("n", testDiskBytes, nil)}, func(string) {}); err == nil || !strings.Contains(err.Error(), "secondary") {
		t.Errorf("on the secondary: %v", err)
	}

	next := m.file("new", testDiskBytes+65536, randomBytes(4096))
	if err := replace(next, true); err != nil {
		t.Fatal(err)
	}
	m.same(next, data)
	m.same(old, data)
	m.inSync()
	if m.pri.conf().Disk != next || m.pri.conf().DiskBytes != testDiskBytes {
		t.Errorf("the configuration says %+v", m.pri.conf())
	}
	c, err := LoadConfig("a")
	if err != nil {
		t.Fatal(err)
	}
	was := *c
	was.Disk = old
	log, said := m.pri.o.In.Log, ""
	note := func(format string, args ...any) { said = fmt.Sprintf(format, args...) }
	if n, f, g := Reopen(c, nil, log, note); f != nil || g != log || said != "" || n.Disk != next {
		t.Errorf("nothing to open anew: %v %s", f, said)
	}
	if _, f, g := Reopen(&was, nil, log, note); f != nil || g != log || !strings.Contains(said, "in use") {
		t.Errorf("the new disk is the server's: %v %s", f, said)
	}
	m.stop(m.pri)
	var f *os.File
	m.until(m.sec, "the kernel lets go of the ended ring's files", func() bool {
		_, f, _ = Reopen(&was, nil, nil, note)
		return f != nil || !strings.Contains(said, "in use")
	})
	if f == nil || f.Name() != next {
		t.Fatalf("for the next server: %s", said)
	}
	f.Close()
	if _, f, _ = Reopen(c, nil, nil, note); f == nil || f.Name() != next {
		t.Fatalf("a disk that one server had to do without: %s", said)
	}
	f.Close()
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: next})
	m.inSync()
	if err := replace(next, false); err != nil {
		t.Errorf("the same disk anew: %v", err)
	}
	m.same(next, data)
	m.inSync()
	m.stop(m.pri)
	m.stop(m.sec)
}

// A server in a dead one's place goes on at once, but not where the peer stood in for a disk or log:
// these may look well and have missed writes.
func TestReattachAsksWhereThePeerStoodIn(t *testing.T) {
	m := newMachines(t)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: m.file("b", testDiskBytes, nil), Listen: "127.0.0.1:0"})
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, nil), Remote: m.sec.stack.address()})
	m.inSync()
	m.stop(m.pri)
	m.reattach = true
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	if !m.status().Ready {
		t.Error("it does not go on at once")
	}
	m.inSync()
	m.look(m.pri, func(n *mirror.Node) {
		if err := n.Replace(); err != nil {
			t.Error(err)
		}
	})
	m.until(m.pri, "remote", func() bool { return m.pri.stack.node.Status().State == mirror.StateRemote })
	if !remoteNote.there("a") {
		t.Error("no note of it")
	}
	m.stop(m.pri)
	m.stop(m.sec)
	for _, noted := range []bool{true, false} {
		if !noted {
			if err := remoteNote.remove("a"); err != nil {
				t.Fatal(err)
			}
		}
		m.pri = m.serve(Request{Role: Primary, Name: "a"})
		m.until(m.pri, "a failed attempt to reach the peer", func() bool { return m.pri.stack.node.Status().LastError != "" })
		if m.status().Ready {
			t.Errorf("note %v: it serves", noted)
		}
		m.stop(m.pri)
	}
}

// Nor where the server died long ago, it is not known when, or it was fenced, until its peer was asked.
func TestReattachAsksWhereThePeerMayHaveBeenPromoted(t *testing.T) {
	m := newMachines(t)
	b := m.file("b", testDiskBytes, nil)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: b, Listen: "127.0.0.1:0"})
	q := Request{Role: Primary, Name: "a", Disk: m.file("a", testDiskBytes, nil), Remote: m.sec.stack.address()}
	m.pri = m.serve(q)
	m.inSync()
	m.reattach = true
	for name, before := range map[string]func(){
		"long ago":     func() { m.died -= int64(mirror.DefaultReattach) + 1 },
		"nobody knows": func() { m.died = 0 },
		"fenced":       func() { m.pri.stack.event(mirror.Event{What: "volume", New: mirror.StateFenced}) },
	} {
		m.stop(m.pri)
		m.stop(m.sec)
		before()
		m.pri = m.serve(Request{Role: Primary, Name: "a"})
		m.until(m.pri, "a failed attempt to reach the peer", func() bool { return m.pri.stack.node.Status().LastError != "" })
		if m.status().Ready {
			t.Errorf("%s: it serves", name)
		}
		m.sec = m.serve(Request{Role: Secondary, Name: "b", Listen: q.Remote})
		m.inSync()
		if fencedNote.there("a") {
			t.Errorf("%s: the note stays", name)
		}
	}
	m.stop(m.sec)
	m.stop(m.pri)
	m.died = 0
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	if _, err := m.pri.Do(context.Background(), "start-alone", control.Args{}, func(string) {}); err != nil {
		t.Error(err)
	}
	m.until(m.pri, "it serves upon the user's word", func() bool { return m.pri.stack.node.Status().Ready })
	m.stop(m.pri)
}

// With --assume-clean the peer's disk stays as it is but for what is written, the user is told what that
// trusts, and a volume that is known refuses it.
func TestAssumeClean(t *testing.T) {
	m := newMachines(t)
	here, there := randomBytes(testDiskBytes), randomBytes(testDiskBytes)
	there[testDiskBytes/2]++
	a, b := m.file("a", testDiskBytes, here), m.file("b", testDiskBytes, there)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: b, Listen: "127.0.0.1:0", Overwrite: true})
	q := Request{Role: Primary, Name: "a", Disk: a, Remote: m.sec.stack.address(), AssumeClean: true}
	m.pri = m.serve(q)
	m.inSync()
	m.stop(m.pri)
	m.stop(m.sec)
	m.same(a, here)
	m.same(b, there)
	var err error
	for range 2 {
		if _, err = Prepare(q); err == nil || !strings.Contains(err.Error(), "--assume-clean") || !strings.Contains(err.Error(), "known") {
			t.Errorf("of a known volume: %v", err)
		}
	}
	p, err := Prepare(Request{Role: Primary, Name: "c", Disk: m.file("c", testDiskBytes, nil), Remote: "127.0.0.1:9", LogBytes: 16 << 20, AssumeClean: true})
	if err != nil || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "nothing is copied or compared") {
		t.Fatalf("%v: %+v", err, p)
	}
	p.Close()
}

// did is closed when a request is back.
type did chan struct{}

func (d did) Complete(*blk.Request) { close(d) }

// do carries out one request of the volume's client.
func (m *machines) do(op blk.Op, off int64, buf []byte) {
	m.t.Helper()
	r := blk.Request{Op: op, Offset: off, Length: int64(len(buf)), Buf: buf}
	done := make(did)
	r.Owner = done
	if err := m.pri.stack.call(func() { m.pri.stack.node.Device().Submit(&r) }); err != nil {
		m.t.Fatal(err)
	}
	<-done
	if r.Err != 0 {
		m.t.Fatalf("%v at %d: %v", op, off, r.Err)
	}
}

// A volume that lost its log gets another one: what may not be one is refused and I/O goes on, and the
// next server goes on with it, at once, with everything that was written before, meanwhile and after.
func TestReplaceLog(t *testing.T) {
	m := newMachines(t)
	disk, held := m.file("a", testDiskBytes, nil), m.file("b", testDiskBytes, nil)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: held, Listen: "127.0.0.1:0"})
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: disk, Remote: m.sec.stack.address()})
	buf, err := blk.Alloc(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer blk.Free(buf)
	write := func(block int64) {
		for i := range buf {
			buf[i] = byte(block)
		}
		m.do(blk.Write, block*4096, buf)
	}
	replace := func(path string, create bool) error {
		_, err := m.pri.Do(context.Background(), "replace-log", control.Args{Log: path, LogBytes: 16 << 20, CreateLog: create}, func(string) {})
		return err
	}
	m.inSync()
	write(1)
	if err := replace(filepath.Join(m.dir, "new.log"), false); err == nil || !strings.Contains(err.Error(), "not lost") {
		t.Errorf("a log that works: %v", err)
	}
	m.look(m.pri, func(*mirror.Node) { m.pri.stack.cache.Log().Fail(errors.New("pulled out")) })
	m.until(m.pri, "remote", func() bool { return m.pri.stack.node.Status().State == mirror.StateRemote })
	write(2)
	for _, x := range []struct{ path, why string }{
		{disk, "belongs to volume a"}, {held, "belongs to volume b"}, {DefaultLogPath("b"), "belongs to volume b"}, {DefaultLogPath("a"), "in use"},
		{m.file("blank", 16<<20, nil), "--create-log"}, {m.file("full", 16<<20, randomBytes(1<<16)), "--overwrite"}, {m.file("small", 1<<20, nil), "--log-size 16"},
	} {
		if err := replace(x.path, false); err == nil || !strings.Contains(err.Error(), x.why) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", filepath.Base(x.path), err)
		}
	}
	write(3)
	if _, err := m.pri.Do(context.Background(), "replace-disk", control.Args{Disk: m.file("d", testDiskBytes, nil)}, func(string) {}); err == nil || !strings.Contains(err.Error(), "log is lost") {
		t.Errorf("a disk before the log: %v", err)
	}
	blank := filepath.Join(m.dir, "blank")
	if err := replace(blank, true); err != nil {
		t.Fatal(err)
	}
	if code := <-m.pri.quit; code != supervise.ExitAgain {
		t.Errorf("the server ends with %d", code)
	}
	m.stop(m.pri)
	m.reattach = true
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	if st := m.status(); !st.Ready || m.pri.conf().Log != blank {
		t.Errorf("the next server is %s with log %s", st.State, m.pri.conf().Log)
	}
	m.inSync()
	write(4)
	for block := range int64(5) {
		m.do(blk.Read, block*4096, buf)
		if !bytes.Equal(buf, bytes.Repeat([]byte{byte(block)}, 4096)) {
			t.Errorf("block %d holds %x", block, buf[:4])
		}
	}
	m.look(m.sec, func(n *mirror.Node) {
		if marks := n.Status().Marks; marks&seglog.PeerNeedsRefill != 0 {
			t.Errorf("the peer: %v", marks)
		}
	})
	m.stop(m.pri)
	m.stop(m.sec)
}

// A volume whose log is gone when it starts is the peer's copy; with a new log, and then its disk filled
// anew, it is as it was.
func TestStartWithoutLog(t *testing.T) {
	startWithoutLog(t, func(m *machines) {
		if err := os.Remove(DefaultLogPath("a")); err != nil {
			t.Fatal(err)
		}
	})
}

// So is one whose log has lost a segment that the peer's log has given back.
func TestStartWithADamagedLog(t *testing.T) {
	startWithoutLog(t, func(m *machines) {
		m.until(m.sec, "its log gives the first ones back", func() bool {
			c := m.sec.stack.cache
			c.DestageAll(true)
			c.Log().Trim()
			return c.Log().First() > 3
		})
		f, err := os.OpenFile(DefaultLogPath("a"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, []byte("SEG1"))
		if at < 0 {
			t.Fatal("the log holds no segment")
		}
		if _, err := f.WriteAt([]byte("rot!"), int64(at+100)); err != nil {
			t.Fatal(err)
		}
	})
}

func startWithoutLog(t *testing.T, lose func(m *machines)) {
	m := newMachines(t)
	data := randomBytes(testDiskBytes)
	disk := m.file("a", testDiskBytes, data)
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: m.file("b", testDiskBytes, nil), Listen: "127.0.0.1:0"})
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: disk, Remote: m.sec.stack.address()})
	m.inSync()
	buf, err := blk.Alloc(4096)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 8*4096; off += 4096 {
		copy(buf, data[off:])
		m.do(blk.Write, off, buf)
	}
	m.stop(m.pri)
	lose(m)
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	m.until(m.pri, "remote", func() bool { return m.pri.stack.node.Status().State == mirror.StateRemote })
	do := func(command string, a control.Args) {
		t.Helper()
		if _, err := m.pri.Do(context.Background(), command, a, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(m.dir, "new.log")
	do("replace-log", control.Args{Log: log, LogBytes: 16 << 20})
	<-m.pri.quit
	m.stop(m.pri)
	m.reattach = true
	m.pri = m.serve(Request{Role: Primary, Name: "a"})
	m.until(m.pri, "remote", func() bool { return m.pri.stack.node.Status().State == mirror.StateRemote })
	do("replace-disk", control.Args{Disk: disk})
	m.inSync()
	m.same(disk, data)
	m.stop(m.pri)
	m.stop(m.sec)
}
