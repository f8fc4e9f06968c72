package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kernel is a bootable kernel with its modules.
type Kernel struct {
	Version string // as uname -r
	Image   string // vmlinuz
	Modules string // …/lib/modules/VERSION; "" when all is built in
}

// Newest is the word for the newest 7.x kernel that Debian offers.
const Newest = "7"

const flavour = "cloud-amd64"

// Kernel finds kernel want: a version prefix such as "6.12" or "7", or the path of a vmlinuz
// whose modules lie beside it (lib/modules) or in the system's /lib/modules.
func (l *Lab) Kernel(want string) (Kernel, error) {
	if strings.ContainsRune(want, '/') {
		return kernelFile(want)
	}
	unlock, err := l.lock("kernels")
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	k, err := l.fetch(want)
	if err == nil {
		return k, nil
	}
	if k, ok := l.cached(want); ok {
		l.Say("no newer kernel could be looked for (%v): using %s from the cache", firstLine(err), k.Version)
		return k, nil
	}
	return Kernel{}, err
}

func firstLine(err error) string { s, _, _ := strings.Cut(err.Error(), "\n"); return s }

func kernelFile(path string) (Kernel, error) {
	if _, err := os.Stat(path); err != nil {
		return Kernel{}, fmt.Errorf("kernel: %w", err)
	}
	v := strings.TrimPrefix(filepath.Base(path), "vmlinuz-")
	for _, root := range []string{filepath.Dir(path), filepath.Join(filepath.Dir(path), ".."), "/"} {
		m := filepath.Join(root, "lib/modules", v)
		if _, err := os.Stat(m); err == nil {
			return Kernel{v, path, m}, nil
		}
	}
	return Kernel{}, fmt.Errorf("kernel %s: no lib/modules/%s beside it: name the file vmlinuz-VERSION and put its modules there", path, v)
}

func (l *Lab) dir(version string) string { return filepath.Join(l.Cache, "kernels", version) }

// cached finds the newest unpacked kernel that fits.
func (l *Lab) cached(want string) (Kernel, bool) {
	d, err := os.ReadDir(filepath.Join(l.Cache, "kernels"))
	if err != nil {
		return Kernel{}, false
	}
	var versions []string
	for _, e := range d {
		if _, err := os.Stat(filepath.Join(l.dir(e.Name()), "ok")); err == nil && fits(e.Name(), want) {
			versions = append(versions, e.Name())
		}
	}
	if len(versions) == 0 {
		return Kernel{}, false
	}
	slices.SortFunc(versions, compare)
	return l.at(versions[len(versions)-1]), true
}

func (l *Lab) at(v string) Kernel {
	return Kernel{v, filepath.Join(l.dir(v), "vmlinuz"), filepath.Join(l.dir(v), "modules")}
}

func fits(version, want string) bool {
	return version == want || strings.HasPrefix(version, want+".") && strings.HasSuffix(version, flavour)
}

var numbers = regexp.MustCompile(`\d+`)

// compare orders versions by their numbers.
func compare(a, b string) int {
	x, y := numbers.FindAllString(a, 3), numbers.FindAllString(b, 3)
	for i := range min(len(x), len(y)) {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m - n
		}
	}
	return strings.Compare(a, b)
}

// aptDirs is a private apt configuration: the system's own sources are not touched.
type aptDirs struct{ opts []string }

func (l *Lab) apt() (*aptDirs, error) {
	if lookup("apt-get") == "" || lookup("dpkg-deb") == "" {
		return nil, errors.New("this is not a Debian system (no apt-get): give --kernel FILE, a vmlinuz-VERSION with lib/modules/VERSION beside it")
	}
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-get indextargets: %w", err)
	}
	mirror := ""
	for u := range strings.SplitSeq(string(out), "\n") {
		if u = strings.TrimRight(u, "/"); strings.HasSuffix(u, "/debian") && mirror == "" {
			mirror = u
		}
	}
	if mirror == "" {
		// Before the first update there are no targets yet; the sources still name the mirror.
		mirror = mirrorOfSources()
	}
	if mirror == "" {
		return nil, errors.New("no Debian mirror among this system's apt sources: give --kernel FILE")
	}
	d := filepath.Join(l.Cache, "apt")
	if err := os.MkdirAll(d+"/lists/partial", 0o755); err != nil {
		return nil, err
	}
	list := ""
	for _, suite := range []string{"trixie", "trixie-backports"} {
		list += fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	}
	if err := os.WriteFile(d+"/list", []byte(list), 0o644); err != nil {
		return nil, err
	}
	a := &aptDirs{[]string{"-oDir::Etc::SourceList=" + d + "/list", "-oDir::Etc::SourceParts=/dev/null", "-oDir::State::Lists=" + d + "/lists",
		"-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=", "-oAPT::Sandbox::User=", "-oDebug::NoLocking=1"}}
	if _, err := a.run("apt-get", "-qq", "update"); err != nil {
		return nil, err
	}
	return a, nil
}

func mirrorOfSources() string {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, f := range append(files, "/etc/apt/sources.list") {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for w := range strings.FieldsSeq(string(b)) {
			if w = strings.TrimRight(w, "/"); strings.HasPrefix(w, "http") && strings.HasSuffix(w, "/debian") {
				return w
			}
		}
	}
	return ""
}

func (a *aptDirs) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, append(append([]string(nil), a.opts...), args...)...)
	b, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, b)
	}
	return string(b), nil
}

// fetch resolves the newest version that fits and for which every package has a candidate, and unpacks it.
func (l *Lab) fetch(want string) (Kernel, error) {
	a, err := l.apt()
	if err != nil {
		return Kernel{}, err
	}
	names, err := a.run("apt-cache", "pkgnames", "linux-image-")
	if err != nil {
		return Kernel{}, err
	}
	var versions []string
	for n := range strings.FieldsSeq(names) {
		if v := strings.TrimPrefix(n, "linux-image-"); fits(v, want) && strings.Count(v, ".") >= 2 {
			versions = append(versions, v)
		}
	}
	slices.SortFunc(versions, func(x, y string) int { return compare(y, x) })
	for _, v := range versions {
		if _, err := os.Stat(filepath.Join(l.dir(v), "ok")); err == nil {
			return l.at(v), nil
		}
		// Since 6.19 the image and the modules are two packages.
		for _, pkgs := range [][]string{{"linux-binary-" + v, "linux-modules-" + v}, {"linux-image-" + v}} {
			uris, err := a.run("apt-get", append([]string{"--print-uris", "-qq", "download"}, pkgs...)...)
			if err == nil {
				return l.unpack(a, v, pkgs, uris)
			}
		}
	}
	return Kernel{}, fmt.Errorf("no kernel %s.*-%s in Debian", want, flavour)
}

// unpack downloads packages with a progress bar and keeps vmlinuz and modules.
func (l *Lab) unpack(a *aptDirs, v string, pkgs []string, uris string) (Kernel, error) {
	total := int64(0)
	for line := range strings.Lines(uris) { // 'URI' FILE SIZE HASH
		if w := strings.Fields(line); len(w) >= 3 {
			n, _ := strconv.ParseInt(w[2], 10, 64)
			total += n
		}
	}
	tmp := l.dir(v) + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp+"/deb", 0o755)); err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(tmp)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.progress("kernel "+v, total, tmp+"/deb", stop)
	}()
	defer func() { <-stopped }()
	defer close(stop)
	cmd := exec.Command("apt-get", append(append(append([]string(nil), a.opts...), "-qq", "download"), pkgs...)...)
	cmd.Dir = tmp + "/deb"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return Kernel{}, fmt.Errorf("download %s: %w\n%s", strings.Join(pkgs, " "), err, out)
	}
	debs, err := filepath.Glob(tmp + "/deb/*.deb")
	if err != nil {
		return Kernel{}, err
	}
	for _, d := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", d, tmp+"/x").CombinedOutput(); err != nil {
			return Kernel{}, fmt.Errorf("unpack %s: %w\n%s", d, err, out)
		}
	}
	return l.keep(v, tmp)
}

func (l *Lab) keep(v, tmp string) (Kernel, error) {
	image, modules := "", ""
	for _, p := range []string{"boot/vmlinuz-" + v, "usr/lib/modules/" + v + "/vmlinuz", "lib/modules/" + v + "/vmlinuz"} {
		if _, err := os.Stat(filepath.Join(tmp, "x", p)); err == nil {
			image = filepath.Join(tmp, "x", p)
		}
	}
	for _, p := range []string{"lib/modules/", "usr/lib/modules/"} {
		if _, err := os.Stat(filepath.Join(tmp, "x", p, v, "kernel")); err == nil {
			modules = filepath.Join(tmp, "x", p, v)
		}
	}
	if image == "" || modules == "" {
		return Kernel{}, fmt.Errorf("the packages of kernel %s hold no vmlinuz or no modules", v)
	}
	d := l.dir(v)
	err := errors.Join(os.RemoveAll(d), os.MkdirAll(d, 0o755), os.Rename(image, d+"/vmlinuz"), os.Rename(modules, d+"/modules"), os.WriteFile(d+"/ok", nil, 0o644))
	return l.at(v), err
}

// progress draws a bar on a terminal, or a line when it is done, from the bytes in dir.
func (l *Lab) progress(what string, total int64, dir string, done <-chan struct{}) {
	st, err := os.Stderr.Stat()
	terminal := err == nil && st.Mode()&os.ModeCharDevice != 0
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		var have int64
		files, _ := filepath.Glob(dir + "/*") // the pattern is ours: it cannot be malformed
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				have += st.Size()
			}
		}
		p := 0
		if total > 0 {
			p = int(min(have*100/total, 100))
		}
		if terminal {
			fmt.Fprintf(os.Stderr, "\r%s [%-40s] %d/%d MB ", what, strings.Repeat("#", p*40/100), have>>20, total>>20)
		} else if p == 100 || time.Since(last) > 5*time.Second {
			l.Say("%s: %d of %d MB", what, have>>20, total>>20)
			last = time.Now()
		}
		if p == 100 {
			if terminal {
				fmt.Fprintln(os.Stderr)
			}
			return
		}
	}
}
