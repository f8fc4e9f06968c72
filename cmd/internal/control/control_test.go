package control

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

type fake struct{}

func (fake) Status() (any, error) { return map[string]int{"lag_bytes": 7}, nil }
func (fake) Do(_ context.Context, c string, a Args, p func(string)) (any, error) {
	switch c {
	case "del":
		p("10 %")
		p("100 %")
		return map[string]bool{"force": a.Force}, nil
	}
	return nil, errors.New("no such command " + c)
}

func TestControl(t *testing.T) {
	t.Setenv("ROBIB_RUN_DIR", t.TempDir()+"/run")
	s, err := Listen("v", fake{})
	if err != nil {
		t.Fatal(err)
	}
	var st map[string]int
	if err := Status("v", &st); err != nil || st["lag_bytes"] != 7 {
		t.Fatal(st, err)
	}
	var lines []string
	var res map[string]bool
	err = Do(context.Background(), "v", "del", Args{Force: true}, func(l string) { lines = append(lines, l) }, &res)
	if err != nil || len(lines) != 2 || !res["force"] {
		t.Fatal(lines, res, err)
	}
	if err := Do(context.Background(), "v", "fly", Args{}, nil, nil); err == nil || err.Error() != "no such command fly" {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{RunDir(): 0o700, Path("v"): 0o600} {
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", path, fi.Mode(), err, want)
		}
	}
	if _, err := Listen("v", fake{}); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Error(err)
	}
	if n, err := Names(); err != nil || len(n) != 1 || n[0] != "v" {
		t.Error(n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Status("v", &st); !errors.Is(err, ErrNotRunning) {
		t.Fatal(err)
	}
}
