package volume

import (
	"os"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// An older copy of a volume's log is refused, until it is accepted; a volume that is forgotten leaves no mark.
func TestOlderLogIsRefused(t *testing.T) {
	m := newMachines(t)
	disk := m.file("disk", testDiskBytes, nil)
	q := Request{Role: Primary, Name: "a", Disk: disk}
	life := func(q Request) (log []byte) {
		m.pri = m.serve(q)
		buf, err := blk.Alloc(4096)
		if err != nil {
			t.Fatal(err)
		}
		m.do(blk.Write, 8192, buf)
		m.stop(m.pri)
		<-m.pri.ended
		m.pri.markLog()
		log, err = os.ReadFile(DefaultLogPath("a"))
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	older := life(q)
	newest := life(q)
	put := func(b []byte) {
		if err := os.WriteFile(DefaultLogPath("a"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(older)
	_, err := m.try(q)
	if err == nil || !strings.Contains(err.Error(), "older copy of itself") || !strings.Contains(err.Error(), "--accept-log") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("an older log: %v", err)
	}
	put(newest)
	life(q)
	put(older)
	q.AcceptLog = true
	life(q)
	q.AcceptLog = false
	life(q) // from here on it is the log

	c, err := LoadConfig("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Forget(); err != nil {
		t.Fatal(err)
	}
	m.pri.marked = nil
	m.pri.markLog()
	if _, err := os.Stat(logMarkPath("a")); !os.IsNotExist(err) {
		t.Errorf("the mark of a forgotten volume: %v", err)
	}
}
