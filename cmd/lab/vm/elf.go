package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

var libDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// libraries adds the shared libraries that program needs, and its interpreter, to out: path in
// the guest to path here.
func libraries(program string, out map[string]string) error {
	f, err := elf.Open(program)
	var bad *elf.FormatError
	if errors.As(err, &bad) {
		return nil // a script
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return err
			}
			in := strings.TrimRight(string(b), "\x00")
			out[in] = in
		}
	}
	need, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	dirs := libDirs
	if run, err := f.DynString(elf.DT_RUNPATH); err == nil {
		for _, r := range run {
			for d := range strings.SplitSeq(r, ":") {
				dirs = append([]string{strings.ReplaceAll(d, "$ORIGIN", filepath.Dir(program))}, dirs...)
			}
		}
	}
	for _, n := range need {
		found := false
		for _, d := range dirs {
			p := filepath.Join(d, n)
			if _, err := os.Stat(p); err != nil {
				continue
			}
			found = true
			if _, ok := out[p]; !ok {
				out[p] = p
				if err := libraries(p, out); err != nil {
					return err
				}
			}
			break
		}
		if !found {
			return fmt.Errorf("%s needs %s, which is not installed", program, n)
		}
	}
	return nil
}
