package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the modules the guest may need; those a kernel has built in, or lacks, are passed over.
var wanted = []string{
	"virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "crc32c_intel", "libcrc32c", "crc32c_cryptoapi", "ext4", "xfs",
	"ublk_drv", "null_blk", "brd", "loop", "dm_mod", "dm_flakey", "dm_delay", "dm_log_writes", "md_mod", "raid1", "configfs",
	"veth", "sch_netem", "tls", "mq_deadline",
}

// dormant are put into the guest and loaded by whoever wants them, with parameters.
var dormant = []string{"null_blk", "brd", "mq_deadline"}

type module struct {
	name, file string
	data       []byte
	needs      []string
}

// modules loads what wanted names and what that needs, in an order in which they can be inserted.
func modules(k Kernel) ([]module, error) {
	index := map[string]string{}
	err := filepath.WalkDir(k.Modules, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base, ext, ok := strings.Cut(d.Name(), ".ko")
		if ok && (ext == "" || ext == ".xz" || ext == ".zst") {
			index[strings.ReplaceAll(base, "-", "_")] = p
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, ok := index["ublk_drv"]; !ok {
		return nil, fmt.Errorf("kernel %s has no ublk_drv module: it cannot run robib-ublk", k.Version)
	}
	var out []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		p, ok := index[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		m, err := readModule(name, p)
		if err != nil {
			return err
		}
		for _, n := range m.needs {
			if err := add(n); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, w := range wanted {
		if err := add(w); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readModule(name, path string) (module, error) {
	m := module{name: name, file: path}
	var err error
	switch filepath.Ext(path) {
	case ".xz":
		m.data, err = exec.Command("xz", "-dc", path).Output()
	case ".zst":
		m.data, err = exec.Command("zstd", "-qdc", path).Output()
	default:
		m.data, err = os.ReadFile(path)
	}
	if err != nil {
		return m, fmt.Errorf("module %s: %w", name, err)
	}
	f, err := elf.NewFile(bytes.NewReader(m.data))
	if err != nil {
		return m, fmt.Errorf("module %s: %w", name, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return m, errors.New("module " + name + ": no .modinfo")
	}
	b, err := s.Data()
	if err != nil {
		return m, err
	}
	for e := range strings.SplitSeq(string(b), "\x00") {
		if v, ok := strings.CutPrefix(e, "depends="); ok && v != "" {
			m.needs = strings.Split(v, ",")
		}
	}
	return m, nil
}

// isDormant reports whether a module is not loaded at boot.
func isDormant(name string) bool { return slices.Contains(dormant, name) }
