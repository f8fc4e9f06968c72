package vm

import (
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
)

// Tool is a program the lab needs on the host, or puts into the guest, and Debian's package for it.
type Tool struct{ Program, Package string }

// hostTools run the lab itself.
var hostTools = []Tool{
	{"qemu-system-x86_64", "qemu-system-x86"}, {"xz", "xz-utils"}, {"mkfs.ext4", "e2fsprogs"},
	{"losetup", "mount"}, {"gcc", "gcc"}, {"ip", "iproute2"},
}

// guestTools go into the guest with the libraries they need.
var guestTools = []Tool{
	{"busybox", "busybox-static"}, {"fio", "fio"}, {"mkfs.ext4", "e2fsprogs"}, {"e2fsck", "e2fsprogs"},
	{"mkfs.xfs", "xfsprogs"}, {"xfs_repair", "xfsprogs"}, {"dmsetup", "dmsetup"}, {"mount", "mount"}, {"umount", "mount"},
	{"losetup", "mount"}, {"blockdev", "util-linux"}, {"ip", "iproute2"}, {"tc", "iproute2"},
	{"blktrace", "blktrace"}, {"blkparse", "blktrace"}, {"btt", "blktrace"}, {"mdadm", "mdadm"}, {"lvm", "lvm2"}, {"sfdisk", "fdisk"},
}

var sbin = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"}

// lookup finds a program, also in the directories that a user's PATH leaves out.
func lookup(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, d := range sbin {
		if st, err := os.Stat(d + "/" + name); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return d + "/" + name
		}
	}
	return ""
}

// Need makes sure that every tool is there: on Debian as root it installs what is missing, else
// it names the command that would.
func (l *Lab) Need() error {
	missing := map[string]bool{}
	var programs []string
	for _, t := range append(append([]Tool(nil), hostTools...), guestTools...) {
		if lookup(t.Program) == "" {
			missing[t.Package] = true
			programs = append(programs, t.Program)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var pkgs []string
	for p := range missing {
		pkgs = append(pkgs, p)
	}
	sort.Strings(pkgs)
	if lookup("apt-get") == "" {
		return fmt.Errorf("missing programs: %s (in Debian they come from: %s); install them with this system's package manager", strings.Join(programs, " "), strings.Join(pkgs, " "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing programs: %s; install them with:\n  sudo apt-get install --no-install-recommends %s", strings.Join(programs, " "), strings.Join(pkgs, " "))
	}
	l.Say("installing %s", strings.Join(pkgs, " "))
	install := append([]string{"install", "-y", "-qq", "--no-install-recommends", "-oDPkg::Lock::Timeout=300"}, pkgs...)
	if _, err := apt(install...); err != nil {
		// A fresh machine's package lists may be missing or old.
		if out, err := apt("update", "-qq", "-oDPkg::Lock::Timeout=300"); err != nil {
			return fmt.Errorf("apt-get update: %w\n%s", err, out)
		}
		if out, err := apt(install...); err != nil {
			return fmt.Errorf("apt-get install %s: %w\n%s", strings.Join(pkgs, " "), err, out)
		}
	}
	return nil
}

func apt(args ...string) (string, error) {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	b, err := cmd.CombinedOutput()
	return string(b), err
}
