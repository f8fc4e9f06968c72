package vm

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// formatVersion names the layout of the base image; it is part of its cache key.
const formatVersion = "4"

// base makes, or finds in the cache, the part of the initramfs that depends on the kernel and
// the tools installed here only.
func (l *Lab) base(k Kernel) (string, error) {
	unlock, err := l.lock("images")
	if err != nil {
		return "", err
	}
	defer unlock()
	files := map[string]string{}
	for _, t := range guestTools {
		p := lookup(t.Program)
		files["/usr/bin/"+t.Program] = p
		if err := libraries(p, files); err != nil {
			return "", err
		}
	}
	h := sha256.New()
	fmt.Fprintln(h, formatVersion, k.Version, wanted, dormant)
	for _, n := range sorted(files) {
		st, err := os.Stat(files[n])
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, n, st.Size(), st.ModTime().UnixNano())
	}
	path := filepath.Join(l.Cache, fmt.Sprintf("base-%s-%x.cpio", k.Version, h.Sum(nil)[:6]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	old, _ := filepath.Glob(filepath.Join(l.Cache, "base-"+k.Version+"-*.cpio"))
	for _, o := range old {
		os.Remove(o) // for tools or a kernel that are no more
	}
	return path, writeArchive(path, func(a *archive) error {
		for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "etc", "mnt", "var/lib/robib-ublk", "tree", "root"} {
			a.dir(d)
		}
		a.bytes("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
		a.bytes("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
		for _, n := range sorted(files) {
			a.file(n, files[n], 0o755)
		}
		for _, applet := range []string{"sh", "ls", "cat", "cp", "mv", "rm", "dd", "df", "du", "ps", "cmp", "find", "grep", "sed", "sleep", "mkdir", "rmdir",
			"sync", "uname", "dmesg", "kill", "pkill", "pgrep", "head", "tail", "wc", "sha256sum", "modprobe", "lsmod", "date", "touch", "chmod", "chown", "ln", "mknod",
			"echo", "true", "false", "env", "hexdump", "od", "tr", "sort", "uniq", "awk", "id", "su", "timeout", "usleep", "readlink", "stat", "fsync", "nc", "free", "top", "vi", "less", "more", "swapon", "swapoff", "mkswap", "seq", "test", "which", "tar", "md5sum", "strings", "truncate"} {
			a.link("bin/"+applet, "/usr/bin/busybox")
		}
		ms, err := modules(k)
		if err != nil {
			return err
		}
		order := ""
		for _, m := range ms {
			a.bytes("lib/modules/"+m.name+".ko", 0o644, m.data)
			if !isDormant(m.name) {
				order += m.name + "\n"
			}
		}
		a.bytes("lib/modules/order", 0o644, []byte(order))
		return nil
	})
}

func writeArchive(path string, fill func(a *archive) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	a := newArchive(f)
	err = fill(a)
	err = errors.Join(err, a.close(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// payload makes the rest of the initramfs: the init, what to run, and the files that it needs.
func payload(path string, j *Job) error {
	spec, err := json.Marshal(j.guest())
	if err != nil {
		return err
	}
	return writeArchive(path, func(a *archive) error {
		a.file("init", j.Init, 0o755)
		a.bytes("lab.json", 0o644, spec)
		for _, n := range sorted(j.Files) {
			st, err := os.Stat(j.Files[n])
			if err != nil {
				return err
			}
			if st.IsDir() {
				a.tree(n, j.Files[n])
			} else {
				a.file(n, j.Files[n], 0o755)
			}
		}
		return nil
	})
}

func concat(dst string, parts ...string) error {
	f, err := os.Create(dst)
	if err != nil {
		return err
	}
	for _, p := range parts {
		in, e := os.Open(p)
		if e != nil {
			return errors.Join(e, f.Close())
		}
		_, e = io.Copy(f, in)
		err = errors.Join(err, e, in.Close())
	}
	return errors.Join(err, f.Close())
}

// tree makes, or finds, a read-only ext4 image of Go's own sources without cmd; "" where there are none.
func (l *Lab) tree() (string, error) {
	unlock, err := l.lock("images")
	if err != nil {
		return "", err
	}
	defer unlock()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	if _, err := os.Stat(filepath.Join(src, "net/http")); err != nil {
		return "", nil
	}
	img := filepath.Join(l.Cache, "tree-"+runtime.Version()+".img")
	if _, err := os.Stat(img); err == nil {
		return img, nil
	}
	stage, err := os.MkdirTemp(l.Cache, "tree-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	d, err := os.ReadDir(src)
	if err != nil {
		return "", err
	}
	for _, e := range d {
		if e.Name() == "cmd" {
			continue
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(src, e.Name()), stage).CombinedOutput(); err != nil {
			return "", fmt.Errorf("copy Go's sources: %w\n%s", err, out)
		}
	}
	if err := diskImage(img+".new", 256<<20); err != nil {
		return "", err
	}
	if out, err := exec.Command(lookup("mkfs.ext4"), "-q", "-F", "-m", "0", "-O", "^has_journal", "-d", stage, img+".new").CombinedOutput(); err != nil {
		return "", fmt.Errorf("mkfs.ext4: %w\n%s", err, out)
	}
	return img, os.Rename(img+".new", img)
}

func diskImage(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
