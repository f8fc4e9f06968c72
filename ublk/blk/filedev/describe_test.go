package filedev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// sysTree makes a directory as sysfs has it.
func sysTree(t *testing.T, files map[string]string) sysDev {
	t.Helper()
	dir := t.TempDir()
	for name, v := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(v+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sysDev(dir)
}

func TestWhatSysfsSays(t *testing.T) {
	rows := map[string]struct {
		files map[string]string
		part  string
		want  blk.Info
	}{
		"a SATA disk": {map[string]string{"queue/rotational": "1", "queue/write_cache": "write back", "queue/zoned": "none", "queue/discard_max_bytes": "0",
			"queue/write_zeroes_max_bytes": "33553920", "device/wwid": "t10.ATA     ST4000    ZXY"}, "",
			blk.Info{Rotational: true, VolatileCache: true, WriteZeroes: true, Identity: "t10.ATA ST4000 ZXY"}},
		"an NVMe disk": {map[string]string{"queue/rotational": "0", "queue/write_cache": "write through", "queue/zoned": "none", "queue/discard_max_bytes": "2199023255040",
			"queue/write_zeroes_max_bytes": "131072", "wwid": "eui.0025", "device/serial": "S1"}, "",
			blk.Info{Discard: true, WriteZeroes: true, Identity: "eui.0025"}},
		"a partition": {map[string]string{"queue/rotational": "1", "queue/write_cache": "write through", "serial": "disk7", "p3/partition": "3"}, "p3",
			blk.Info{Rotational: true, Identity: "disk7-part3"}},
		"a zoned disk": {map[string]string{"queue/write_cache": "write through", "queue/zoned": "host-managed"}, "",
			blk.Info{Zoned: true}},
		// A discard alone need not leave zeros behind.
		"discard without zeroing": {map[string]string{"queue/write_cache": "write through", "queue/discard_max_bytes": "4096", "queue/write_zeroes_max_bytes": "0"}, "", blk.Info{}},
		"nothing known":           {nil, "", blk.Info{VolatileCache: true}},
	}
	for name, row := range rows {
		d := sysTree(t, row.files)
		var got blk.Info
		if sysDev(filepath.Join(string(d), row.part)).describe(&got); got != row.want {
			t.Errorf("%s: %+v, should be %+v", name, got, row.want)
		}
	}
	var got blk.Info
	if sysDev("").describe(&got); !got.VolatileCache || got.Discard {
		t.Errorf("no sysfs: %+v", got)
	}
}

func TestDescribeALoopDevice(t *testing.T) {
	path := tempPath(t, 8<<20)
	f := openExclusive(t, loopDevice(t, path, "--sector-size", "4096"))
	info, err := Describe(f)
	if err != nil || info.SizeBytes != 8<<20 || info.LogicalBytes != 4096 || info.PhysicalBytes < 4096 || info.ReadOnly || info.Zoned || info.Identity != path {
		t.Errorf("%+v %v", info, err)
	}
}

// A partition's disk is found, although the kernel's name for it leads through a symbolic link.
func TestDescribeAPartition(t *testing.T) {
	path := tempPath(t, 16<<20)
	dev := loopDevice(t, path, "--partscan")
	// No table: the kernel that runs this need not know the format.
	run(t, "addpart", dev, "1", "2048", "8192")
	t.Cleanup(func() { run(t, "delpart", dev, "1") })
	f := openExclusive(t, dev+"p1")
	info, err := Describe(f)
	if err != nil || info.SizeBytes != 4<<20 || info.Identity != path+"-part1" || !info.WriteZeroes || !info.Discard {
		t.Errorf("%+v %v", info, err)
	}
	_, err = OpenExclusive(dev)
	if !errors.Is(err, ErrInUse) {
		t.Errorf("the disk of an opened partition: %v", err)
	}
}

func TestDescribeAFile(t *testing.T) {
	path := tempPath(t, 8<<20+4096+512+100)
	f := openExclusive(t, path)
	info, err := Describe(f)
	if err != nil || info.SizeBytes != 8<<20+4096+512 && info.LogicalBytes == 512 || info.SizeBytes%int64(info.LogicalBytes) != 0 ||
		info.PhysicalBytes < info.LogicalBytes || !strings.HasPrefix(info.Identity, "file:") {
		t.Errorf("%+v %v", info, err)
	}
	other := openExclusive(t, tempPath(t, 1<<20))
	if o, err := Describe(other); err != nil || o.Identity == info.Identity {
		t.Errorf("two files are both %q, %v", info.Identity, err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Describe(null); !errors.Is(err, ErrNotDisk) {
		t.Errorf("/dev/null: %v", err)
	}
}
