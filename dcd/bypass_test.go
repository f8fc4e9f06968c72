package dcd

import (
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// Sequential runs that go past the log, among everything else, over crashes.
func TestSimulationOfTheBypass(t *testing.T) {
	n := blktest.Seeds(t, 25)
	var past, crashes uint64
	for seed := range uint64(n) {
		s, err := runSimWith(seed, variant{bypass: true})
		if err != nil {
			t.Fatal(err)
		}
		past, crashes = past+s.v.past+s.c.y.count, crashes+uint64(s.crashes)
	}
	if past < 20*uint64(n) {
		t.Fatalf("only %d writes went past the log in %d seeds", past, n)
	}
	t.Logf("%d seeds, %d crashes, %d writes went past the log", n, crashes, past)
}

// onDisk makes a volume and writes a sequential run of 64 writes of 32 KiB.
func sequence(t *testing.T, change func(c *Cache, data *blktest.Disk)) *Cache {
	t.Helper()
	w := blktest.NewWorld(1)
	const size = 8 << 20
	data, log := blktest.NewDisk(w, "data", size, 1000), blktest.NewDisk(w, "log", 4<<20, 1000)
	s := simSuper()
	s.DiskBytes, s.ChunkBytes, s.MaxSegmentBytes = size, 1<<20, 128<<10
	if err := seglog.Create(log, s, w.Drive); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{Data: data, Log: log, Incarnation: 1, Bypass: 256 << 10}, w.Drive)
	if err != nil {
		t.Fatal(err)
	}
	change(c, data)
	buf := make([]byte, 33<<10)[:32<<10]
	for i := range int64(64) {
		blktest.Fill(buf, 1<<20+i*32<<10, uint64(i+1))
		if err := blk.Do(c, &blk.Request{Op: blk.Write, Offset: 1<<20 + i*32<<10, Length: 32 << 10, Buf: buf}, w.Drive); err != nil {
			t.Fatal(i, err)
		}
	}
	return c
}

// What is long enough goes past the log, unless something forbids it; then it takes the log.
func TestWhatGoesPastTheLog(t *testing.T) {
	for name, row := range map[string]struct {
		change func(c *Cache, data *blktest.Disk)
		past   uint64
	}{
		"a run":           {func(*Cache, *blktest.Disk) {}, 54}, // the first ones wait for the log's feature bit
		"never":           {func(c *Cache, _ *blktest.Disk) { c.y.set(-1) }, 0},
		"by default":      {func(c *Cache, _ *blktest.Disk) { c.y.set(0) }, 0}, // the run is shorter than 4 MiB
		"a disk's arm":    {func(c *Cache, d *blktest.Disk) { d.SetInfo(func(i *blk.Info) { i.Rotational = true }); c.y.set(0) }, 0},
		"ordered":         {func(c *Cache, _ *blktest.Disk) { c.o.Ordered = true }, 0},
		"another reader":  {func(c *Cache, _ *blktest.Disk) { c.log.NewReader("ship", c.log.Sealed()) }, 0},
		"a zeroing":       {func(c *Cache, _ *blktest.Disk) { c.lastZero = 1 << 60 }, 0},
		"destage is told": {func(c *Cache, _ *blktest.Disk) { c.DestageAll(true) }, 0},
	} {
		c := sequence(t, row.change)
		if c.y.count != row.past {
			t.Errorf("%s: %d writes went past the log, %d should", name, c.y.count, row.past)
		}
		if has := c.log.Super().Incompat&seglog.Bypasses != 0; has != (row.past > 0) {
			t.Errorf("%s: the log says that it may hold such records: %v", name, has)
		}
	}
}
