package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/robib-ublk/robib/"

// arrows say which packages of this module, and of x/sys, each package may import. What is not
// listed may import anything.
var arrows = map[string][]string{
	"uring":             {"x/sys"},
	"bpf":               {"github.com/cilium/ebpf", "github.com/cilium/ebpf/btf", "github.com/cilium/ebpf/link", "github.com/cilium/ebpf/ringbuf"},
	"ublk/blk":          {},
	"ublk/blk/filedev":  {"uring", "ublk/blk", "x/sys"},
	"ublk/blk/blktest":  {"ublk/blk"},
	"ublk":              {"uring", "ublk/blk", "x/sys"},
	"dcd/seglog":        {"ublk/blk", "github.com/cespare/xxhash/v2"},
	"dcd":               {"ublk/blk", "dcd/seglog"},
	"mirror/wire":       {"github.com/klauspost/compress/zstd"},
	"mirror/link":       {"mirror/wire", "uring", "x/sys"},
	"mirror":            {"ublk/blk", "dcd", "dcd/seglog", "mirror/wire"},
	"mirror/mirrortest": {"mirror", "mirror/wire", "dcd", "dcd/seglog", "ublk/blk", "ublk/blk/blktest"},
}

// pure packages are driven from outside: they have no clock, no goroutine, no chance of their own.
var pure = []string{"dcd", "dcd/seglog", "mirror"}

type file struct {
	path string // relative
	src  []byte
	ast  *ast.File
}

func (f *file) pkg() string  { return filepath.ToSlash(filepath.Dir(f.path)) }
func (f *file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func parse(t testing.TB, path string, src []byte) *file {
	t.Helper()
	a, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return &file{path, src, a}
}

// problems of one file, as text.
func problems(f *file) (out []string) {
	say := func(format string, args ...any) { out = append(out, f.path+": "+fmt.Sprintf(format, args...)) }
	allowed, listed := arrows[f.pkg()]
	isPure := slices.Contains(pure, f.pkg())
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			say("import %s", i.Path.Value)
			continue
		}
		if p == "unsafe" && !f.isTest() && !strings.HasSuffix(f.path, "_unsafe.go") {
			say("unsafe outside a file named *_unsafe.go")
		}
		if f.isTest() {
			continue
		}
		if isPure && (p == "time" || p == "math/rand" || p == "math/rand/v2" || p == "crypto/rand") {
			say("%s in a package that is driven from outside", p)
		}
		name, ours := strings.CutPrefix(p, module)
		if strings.HasPrefix(p, "golang.org/x/sys") {
			name, ours = "x/sys", true
		} else if !ours && strings.Contains(strings.Split(p, "/")[0], ".") {
			name, ours = p, true
		}
		if listed && ours && !slices.Contains(allowed, name) {
			say("imports %s", name)
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			if isPure && !f.isTest() {
				say("starts a goroutine")
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && f.isTest() && x.Name == "time" && n.Sel.Name == "Sleep" {
				say("sleeps")
			}
		}
		return true
	})
	if n := bytes.Count(f.src, []byte("\n")); n > 500 && !f.isTest() {
		say("%d lines", n)
	}
	return out
}

func TestEachCheckCanFail(t *testing.T) {
	for _, bad := range []struct{ path, src, want string }{
		{"dcd/x.go", "package dcd\nimport _ \"github.com/robib-ublk/robib/uring\"", "imports uring"},
		{"ublk/blk/x.go", "package blk\nimport _ \"golang.org/x/sys/unix\"", "imports x/sys"},
		{"uring/x.go", "package uring\nimport _ \"github.com/alecthomas/kong\"", "imports github.com/alecthomas/kong"},
		{"uring/x.go", "package uring\nimport _ \"unsafe\"", "unsafe"},
		{"mirror/x.go", "package mirror\nimport _ \"time\"", "driven from outside"},
		{"mirror/x.go", "package mirror\nfunc f() { go f() }", "goroutine"},
		{"ublk/x_test.go", "package ublk\nimport \"time\"\nfunc f() { time.Sleep(1) }", "sleeps"},
		{"ublk/x.go", "package ublk\n" + strings.Repeat("\n", 600), "601 lines"},
	} {
		if got := problems(parse(t, bad.path, []byte(bad.src))); len(got) != 1 || !strings.Contains(got[0], bad.want) {
			t.Errorf("%s: %q, want %q", bad.path, got, bad.want)
		}
	}
}

func tracked(t *testing.T) (root string, files []string) {
	t.Helper()
	out, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal("git: ", err)
	}
	root = strings.TrimSpace(string(out))
	cmd := exec.Command("git", "ls-files", "-co", "--exclude-standard")
	cmd.Dir = root
	if out, err = cmd.Output(); err != nil {
		t.Fatal("git: ", err)
	}
	return root, strings.Fields(string(out))
}

func TestRepository(t *testing.T) {
	root, files := tracked(t)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string]*file{}
	for _, p := range files {
		top := strings.Split(p, "/")[0]
		if !slices.Contains([]string{"ublk", "uring", "dcd", "mirror", "bpf", "cmd", "go.mod", "go.sum", "README.md", "LICENSE"}, top) && top[0] != '.' {
			t.Errorf("%s: outside the fixed top level", p)
		}
		if filepath.Ext(p) != ".go" {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		f := parse(t, p, src)
		for _, s := range problems(f) {
			t.Error(s)
		}
		if _, ok := folders[f.pkg()]; !ok {
			folders[f.pkg()] = nil
		}
		if filepath.Base(p) == "doc.go" {
			folders[f.pkg()] = f
		}
	}
	for dir, f := range folders {
		if f == nil || f.ast.Doc == nil {
			t.Errorf("%s: no doc.go that says what it is", dir)
			continue
		}
		// "Package x does y. More" → "does y"
		text := strings.Join(strings.Fields(f.ast.Doc.Text()), " ")
		sentence, _, _ := strings.Cut(strings.Join(strings.Fields(text)[2:], " "), ". ")
		sentence = strings.TrimSuffix(sentence, ".")
		if !strings.Contains(string(readme), "| `"+dir+"` | "+sentence+" |") {
			t.Errorf("README.md: the folder table lacks: | `%s` | %s |", dir, sentence)
		}
	}
	for _, c := range []string{"go run ./cmd/lab demo", "go run ./cmd/lab test"} {
		if !strings.Contains(string(readme), c) {
			t.Errorf("README.md does not name %q", c)
		}
	}
}
