package main

import (
	"bytes"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/robib-ublk/robib/ublk/blk"
)

var samples = flag.Bool("samples", false, "write what the latency commands print now into README.md")

const (
	samplesBegin = "<!-- latency: begin (go test ./cmd/robib-ublk -run TestLatencySamples -samples) -->\n```\n"
	samplesEnd   = "```\n<!-- latency: end -->\n"
)

// busy is a loop device under load until the test ends; it skips where there can be none.
func busy(t *testing.T) (path string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const size = 64 << 20
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", path).Run() })
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ended atomic.Bool
	var all sync.WaitGroup
	t.Cleanup(func() { ended.Store(true); all.Wait(); f.Close() })
	for seed, n := range []int{4 << 10, 4 << 10, 4 << 10, 16 << 10} {
		buf, err := blk.Alloc(n)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer blk.Free(buf)
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			for !ended.Load() {
				at := r.Int64N(int64(size/n)) * int64(n)
				do := f.WriteAt
				if r.IntN(2) == 0 {
					do = f.ReadAt
				}
				if _, err := do(buf, at); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return path
}

// printed is what a command prints.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	var cli CLI
	k, err := kong.New(&cli, kong.Name("robib-ublk"))
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := k.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	text := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(r)
		text <- b
	}()
	err = cmd.Run(&cli)
	os.Stdout = stdout
	w.Close()
	b := <-text
	r.Close()
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return string(bytes.ReplaceAll(b, []byte("\t"), []byte("        ")))
}

var (
	sampleNumber = regexp.MustCompile(`[0-9][0-9.]*(ns|µs|ms|s|K|M)?\b`)
	sampleOp     = regexp.MustCompile(`\b(read|write)\b`)
	sampleSpaces = regexp.MustCompile(` +`)
)

// shape is the first lines of what a command prints, without what differs between runs.
func shape(text string) string {
	lines := strings.SplitN(text, "\n", 3)
	text = sampleOp.ReplaceAllString(strings.Join(lines[:min(2, len(lines))], "\n"), "OP")
	return sampleSpaces.ReplaceAllString(sampleNumber.ReplaceAllString(text, "#"), " ")
}

// README's output of the latency commands is of a real run, and begins as they begin now.
func TestLatencySamples(t *testing.T) {
	dev := busy(t)
	raw, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), samplesBegin)
	old, after, ok2 := strings.Cut(rest, samplesEnd)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the output of latency")
	}
	was := map[string]string{}
	for _, s := range strings.Split(strings.TrimPrefix(old, "# "), "\n# ") {
		command, text, _ := strings.Cut(s, "\n")
		was[command] = text
	}
	var now strings.Builder
	for _, words := range [][]string{{"show", "duration", "1"}, {"hist", "op", "read", "duration", "1"}, {"profile", "op", "write", "duration", "1.5", "interval", "0.5"},
		{"outliers", "threshold", "50us", "rate", "1", "duration", "1"}, {"inflight", "duration", "0.2"}, {"probes", "duration", "0.5"}} {
		args := append([]string{"latency", words[0], dev}, words[1:]...)
		text := printed(t, args...)
		for n := 0; words[0] == "inflight" && !strings.HasPrefix(text, "operation") && n < 100; n++ { // it looked between two requests
			text = printed(t, args...)
		}
		command := "robib-ublk " + strings.Join(args, " ")
		now.WriteString("# " + command + "\n" + text)
		if t.Log(text); *samples {
			continue
		}
		known := regexp.MustCompile(`/dev/loop\d+`).ReplaceAllString(command, "/dev/loop0")
		if sample, there := was[known]; !there || shape(sample) != shape(text) {
			t.Errorf("README.md's output of %q is not as it is now (-samples):\n%s\nis %q, was %q", command, text, shape(text), shape(sample))
		}
	}
	if *samples {
		text := strings.ReplaceAll(now.String(), dev, "/dev/loop0")
		if err := os.WriteFile(readme, []byte(before+samplesBegin+text+samplesEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
