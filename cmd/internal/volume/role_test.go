package volume

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/cmd/internal/supervise"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
)

// quiet is for commands whose progress is not looked at.
func quiet(string) {}

// ask has the secondary take the role, and gives what the primary's server then ends with.
func (m *machines) ask() error {
	m.t.Helper()
	r, err := m.sec.takeRole(context.Background(), control.Args{WaitMillis: 20_000}, quiet)
	if err == nil && (!r.Planned || r.LSN == 0 || r.MissingTo != 0) {
		m.t.Errorf("%+v", r)
	}
	return err
}

// Roles are swapped back and forth by one command each: the addresses are those that were given once,
// the side that dials goes on dialing. What keeps a primary from it is said where it was asked for.
func TestRolesAreSwapped(t *testing.T) {
	m := newMachines(t)
	data := randomBytes(testDiskBytes)
	disks := map[string]string{"a": m.file("disk-a", testDiskBytes, data), "b": m.file("disk-b", testDiskBytes, nil)}
	m.sec = m.serve(Request{Role: Secondary, Name: "b", Disk: disks["b"], Listen: "127.0.0.1:0"})
	address := m.sec.stack.address()
	m.pri = m.serve(Request{Role: Primary, Name: "a", Disk: disks["a"], Remote: address, Mode: "async"})
	m.inSync()

	m.pri.started.Store(false)
	if err := m.ask(); err == nil || !strings.Contains(err.Error(), "only starting") {
		t.Fatalf("while the server starts: %v", err)
	}
	m.pri.started.Store(true)
	m.pri.commit.Lock()
	if err := m.ask(); err == nil || !strings.Contains(err.Error(), "another command is under way there") {
		t.Fatalf("while another command is under way: %v", err)
	}
	m.pri.commit.Unlock()
	config, was := configPath("a"), configPath("a")+".kept"
	for _, err := range []error{os.Rename(config, was), os.MkdirAll(config+"/x", 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := m.ask(); err == nil || !strings.Contains(err.Error(), "a.json") {
		t.Fatalf("with a configuration that cannot be written: %v", err)
	}
	for _, err := range []error{os.RemoveAll(config), os.Rename(was, config)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m.inSync()
	if st := m.status(); !st.Primary || !st.Ready || m.pri.conf().Role != Primary || m.sec.conf().Role != Secondary {
		t.Fatalf("what was refused left %s, %s and %s", st.State, m.pri.conf().Role, m.sec.conf().Role)
	}

	buf, err := blk.Alloc(4096)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		old, block := m.pri, data[i*4096:][:4096]
		for k := range block {
			block[k] ^= byte(i + 1)
		}
		copy(buf, block)
		m.do(blk.Write, int64(i*4096), buf)
		if err := m.ask(); err != nil {
			t.Fatal(i, err)
		}
		if code := <-old.quit; code != supervise.ExitAgain {
			t.Fatalf("the old primary's server ends with %d", code)
		}
		for name, want := range map[string]Role{old.conf().Name: Secondary, m.sec.conf().Name: Primary} {
			c, err := LoadConfig(name)
			if err != nil || c.Role != want || c.Mode != "async" {
				t.Fatalf("%s: %+v, %v", name, c, err)
			}
		}
		m.stop(old)
		m.pri = m.sec
		m.sec = m.serve(Request{Role: Secondary, Name: old.conf().Name, Disk: disks[old.conf().Name], Listen: listens(old.conf().Name, address)})
		m.inSync()
		clear(buf)
		if m.do(blk.Read, int64(i*4096), buf); !bytes.Equal(buf, block) {
			t.Errorf("swap %d: what was written before is not there", i)
		}
		m.look(m.pri, func(n *mirror.Node) {
			if st := n.Status(); st.Term.Number != uint64(i+2) || st.Mode != mirror.Async {
				t.Errorf("term %d, mode %v", st.Term.Number, st.Mode)
			}
		})
	}
	for _, s := range []*Server{m.pri, m.sec} {
		m.until(s, "everything is on the disks", func() bool { s.stack.cache.DestageAll(true); return s.stack.cache.Dirty() == 0 })
		m.stop(s)
		m.same(disks[s.conf().Name], data)
	}
}

// listens is the port that the kernel chose for the side that listens, for its next server.
func listens(name, address string) string {
	if name == "a" {
		return ""
	}
	return address
}
