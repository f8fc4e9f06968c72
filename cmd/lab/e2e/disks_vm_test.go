//go:build vm

package e2e

import (
	"os"
	"strings"
	"testing"
)

// The data disk may be any block device: a partition, a RAID, a logical volume, a loop device, one
// with 4-KiB sectors. Each keeps its bytes over a killed server and mounts without us afterwards.
func TestDataDisks(t *testing.T) {
	const lvm = "activation { udev_sync=0 udev_rules=0 } devices { use_devicesfile=0 scan=[\"/dev\"] global_filter=[\"a|/dev/vdb|\",\"r|.*|\"] } global { use_lvmpolld=0 locking_type=1 }"
	for _, d := range []struct {
		name  string
		make  func(t *testing.T) string
		end   func(t *testing.T)
		block string
	}{
		{"partition", func(t *testing.T) string {
			run(t, "sh", "-c", "printf 'label: gpt\\nsize=64M\\nsize=64M\\n' | sfdisk -q "+dataA)
			return dataA + "2"
		}, func(t *testing.T) { run(t, "sfdisk", "-q", "--delete", dataA) }, "512"},
		{"md", func(t *testing.T) string {
			run(t, "sh", "-c", "printf 'label: gpt\\nsize=64M\\nsize=64M\\n' | sfdisk -q "+dataA)
			run(t, "mdadm", "--create", "/dev/md7", "--run", "--quiet", "--metadata=1.2", "--level=1", "--raid-devices=2", "--assume-clean", dataA+"1", dataA+"2")
			return "/dev/md7"
		}, func(t *testing.T) {
			run(t, "mdadm", "--stop", "--quiet", "/dev/md7")
			run(t, "sfdisk", "-q", "--delete", dataA)
		}, "512"},
		{"lvm", func(t *testing.T) string {
			run(t, "lvm", "pvcreate", "-qq", "-y", "--config", lvm, dataA)
			run(t, "lvm", "vgcreate", "-qq", "--config", lvm, "vg", dataA)
			run(t, "lvm", "lvcreate", "-qq", "-y", "-Zn", "-Wn", "--config", lvm, "-n", "lv", "-L", "64M", "vg")
			return "/dev/mapper/vg-lv"
		}, func(t *testing.T) { run(t, "lvm", "vgremove", "-qq", "-f", "-y", "--config", lvm, "vg") }, "512"},
		{"loop", func(t *testing.T) string {
			return strings.TrimSpace(run(t, "losetup", "--show", "-f", "--sizelimit", "67108864", dataA))
		}, func(t *testing.T) { run(t, "losetup", "-D") }, "512"},
		{"4Kn", func(t *testing.T) string {
			return strings.TrimSpace(run(t, "losetup", "--show", "-f", "--sector-size", "4096", "--sizelimit", "67108864", dataA))
		}, func(t *testing.T) { run(t, "losetup", "-D") }, "4096"},
	} {
		t.Run(d.name, func(t *testing.T) {
			blank(t, dataA, logA)
			disk := d.make(t)
			defer d.end(t)
			run(t, "mkfs.ext4", "-q", "-b", "4096", disk)
			robib(t, "add", "--name", "v", "--disk", disk, "--log", logA, "--create-log")
			dev := stat(t, "v").Device
			if b, err := os.ReadFile("/sys/block/" + strings.TrimPrefix(dev, "/dev/") + "/queue/logical_block_size"); err != nil || strings.TrimSpace(string(b)) != d.block {
				t.Errorf("logical blocks of %s bytes, %v", b, err)
			}
			run(t, "mount", dev, "/mnt")
			run(t, "sh", "-c", "cp /usr/bin/busybox /mnt/a && sync && cp /mnt/a /mnt/b")
			kill9(t, "v")
			run(t, "sh", "-c", "cp /mnt/b /mnt/c && cmp /mnt/a /mnt/c")
			refused(t, 1, "mounted", "stop", "v")
			run(t, "umount", "/mnt")
			robib(t, "del", "v")
			run(t, "e2fsck", "-fn", disk)
			run(t, "mount", "-o", "ro", disk, "/mnt")
			run(t, "sh", "-c", "cmp /usr/bin/busybox /mnt/b && cmp /mnt/a /mnt/c")
			run(t, "umount", "/mnt")
		})
	}
}
