package main

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

	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// staticcheckVersion is run from outside the product's go.mod.
const staticcheckVersion = "v0.8.2"

// TestCmd runs all tests.
type TestCmd struct {
	HostOnly bool     `help:"Only what needs no virtual machine."`
	VMOnly   bool     `help:"Only what runs in virtual machines." name:"vm-only"`
	Kernel   []string `default:"6.12,7" help:"Kernels to test on."`
	Filter   string   `short:"r" name:"run" help:"Only VM tests that match this regular expression."`
}

// batch is tests with build tag vm that share a boot.
type batch struct {
	pkg  string
	cpus int // 0: two
	// Names, joined by "|", of tests that run on every kernel, only on the oldest, and only on all others:
	// what asks the kernel for little runs on one of them.
	all, oldest, newer string
}

// run is the regular expression of the batch's tests on a kernel.
func (b *batch) run(version string) string {
	also := b.newer
	if strings.HasPrefix(version, "6.12.") {
		also = b.oldest
	}
	return "^(" + strings.Trim(b.all+"|"+also, "|") + ")$"
}

// vmBatches are six boots on a kernel. Where latency probes are attached there is one CPU, or two in turn:
// an emulator of several does not always see in time that another one has patched the kernel's code, and dies
// of an int3 that is gone already.
var vmBatches = []batch{
	{pkg: "./ublk", all: ".*"},
	{pkg: "./cmd/lab/e2e",
		all:    "TestFio|TestFioKills|TestFioLinkCut",
		oldest: "TestRefusals|TestStopAndAdd|TestSecondaryKilled|TestLogTools|TestZeroing|TestWriteCache|TestLostStateDirectory",
		newer:  "TestQueues|TestRecover|TestFioAsync|TestMarker|TestReplaceDisk|TestReplaceLog"},
	{pkg: "./cmd/lab/e2e", all: "TestExt4|TestXFS", oldest: "TestDataDisks", newer: "TestSwapRoles|TestOldPrimaryReturns|TestSwapTwentyTimes|TestSwapUnderKills"},
	{pkg: "./cmd/lab/e2e", cpus: inTurn, all: "TestLatency|TestLatencyQueues", newer: "TestOwnStamps|TestMetrics"},
	{pkg: "./cmd/lab/e2e", cpus: counted, all: "TestLatencyExactAgrees|TestLatencyExactDelays", newer: "TestLatencyExactShapes|TestLatencyExactRecovery"},
	{pkg: "./cmd/lab/e2e",
		all:    "TestChurn",
		oldest: "TestReadErrors|TestHangingDisk|TestLogWraps|TestRottenLog|TestPowerCuts|TestUsedBehind|TestOlderLog|TestLogLostAlone|TestAnotherUser|TestKilledWhileTheDiskHangs|TestStagedSync",
		newer:  "TestBadCable|TestSlowLink|TestBackEachOther|TestDelThenAddCompares|TestHostileConnections|TestClockJumps|TestBothDie|TestPromoteInTheMiddleOfASync"},
}

// Kinds of machines that are no number of CPUs.
const (
	counted = -1 // one CPU, whose instructions are the time
	inTurn  = -2 // two CPUs, emulated by one thread
)

// processors makes j's machine one of vmBatches'.
func processors(j *vm.Job, cpus int) {
	switch cpus {
	case counted:
		j.Icount = true
	case inTurn:
		j.SMP, j.OneThread = 2, true
	default:
		j.SMP = cpus
	}
}

// tally counts what passed and failed over all phases.
type tally struct {
	l              *vm.Lab
	passed, failed int
	failures       []string
	again          []string // what ran twice, and why
}

func (t *tally) phase(name string, f func() (passed, failed int, err error)) {
	err := t.l.Phase(name, func() error {
		p, n, err := f()
		t.passed += p
		t.failed += n
		if err != nil && n == 0 {
			t.failed++
		}
		if err != nil && p == 0 && n == 0 {
			fmt.Fprintln(os.Stderr, err)
		}
		return err
	})
	if err != nil {
		t.failures = append(t.failures, fmt.Sprintf("%s: %v", name, err))
	}
}

// Run runs every phase, also after one that failed, and ends with the sum.
func (c *TestCmd) Run(*CLI) error {
	l, err := vm.New()
	if err != nil {
		return err
	}
	if err := l.Need(); err != nil {
		return err
	}
	t := &tally{l: l}
	begun := time.Now()
	verdicts := func() {}
	if !c.VMOnly {
		dir, err := root()
		if err != nil {
			return err
		}
		verdicts = c.host(t, dir)
	}
	if !c.HostOnly {
		for _, k := range c.Kernel {
			if err := c.guests(t, k); err != nil {
				t.phase("kernel "+k, func() (int, int, error) { return 0, 0, err })
			}
		}
	}
	verdicts()
	fmt.Printf("all phases: %.0f s\n", time.Since(begun).Seconds())
	for _, a := range t.again {
		fmt.Println("run twice:", a)
	}
	for _, f := range t.failures {
		fmt.Println("failed:", f)
	}
	fmt.Printf("%d passed, %d failed\n", t.passed, t.failed)
	if t.failed > 0 {
		return exitCode(1)
	}
	return nil
}

// simulated are the packages whose tests are simulations: none of them knows a clock.
var simulated = []string{"./dcd/...", "./mirror/mirrortest", "./ublk/blk/blktest"}

// clocked lists all packages but the simulated.
func clocked(dir string) ([]string, error) {
	list := func(patterns ...string) ([]string, error) {
		out, err := command(dir, append([]string{"go", "list"}, patterns...)...)
		return strings.Fields(out), err
	}
	all, err := list("./...")
	if err != nil {
		return nil, err
	}
	no, err := list(simulated...)
	return slices.DeleteFunc(all, func(p string) bool { return slices.Contains(no, p) }), err
}

// aside runs f in the background; end waits for what it says.
func aside(f func() (int, int, error)) (end func() (int, int, error)) {
	var p, n int
	var err error
	done := make(chan struct{})
	go func() {
		p, n, err = f()
		close(done)
	}()
	return func() (int, int, error) { <-done; return p, n, err }
}

// simulate runs the simulations at length, without the race detector, under it, and with planted bugs: most of each is
// one package's on one CPU. Beside other work they run when it leaves a processor, for as long as that takes. What it
// returns waits for their verdicts.
func simulate(t *tally, dir string, beside bool) (wait func()) {
	nice := 0
	if beside {
		nice = 19
	}
	start := func(args ...string) (end func() (int, int, error)) {
		return aside(func() (int, int, error) {
			return tests(dir, nice, append([]string{"go", "test", "-v", "-timeout", "80m"}, args...)...)
		})
	}
	simulations := start(simulated...)
	raced := start(append([]string{"-race"}, simulated...)...)
	planted := start("-tags", "planted", "-run", "Planted", "./dcd/...", "./mirror/...")
	return func() {
		t.phase("simulations at length, without the race detector", simulations)
		t.phase("simulations with the race detector", raced)
		t.phase("planted bugs are caught", planted)
	}
}

// host runs what needs no virtual machine. The simulations may still run when it returns: verdicts waits for theirs.
func (c *TestCmd) host(t *tally, dir string) (verdicts func()) {
	t.phase("gofmt", func() (int, int, error) {
		out, err := command(dir, "gofmt", "-l", ".")
		if strings.TrimSpace(out) != "" {
			err = errors.New("not formatted: " + out)
		}
		return verdictOf(err)
	})
	t.phase("go vet", func() (int, int, error) {
		_, err := command(dir, "go", "vet", "./...")
		return verdictOf(err)
	})
	linted := aside(func() (int, int, error) {
		_, err := command(dir, "nice", "go", "vet", "-tags", "vm", "./...")
		if err == nil {
			_, err = command(dir, "nice", "go", "run", "honnef.co/go/tools/cmd/staticcheck@"+staticcheckVersion, "./...")
		}
		return verdictOf(err)
	})
	simulations := simulate(t, dir, !c.HostOnly)
	verdicts = func() {
		t.phase("go vet of the VM tests, staticcheck", linted)
		simulations()
	}
	t.phase("go test -race of all but the simulations", func() (int, int, error) {
		rest, err := clocked(dir)
		if err != nil {
			return 0, 1, err
		}
		return tests(dir, 0, append([]string{"go", "test", "-race", "-v"}, rest...)...)
	})
	t.phase("giouring as oracle", func() (int, int, error) {
		return tests(dir, 0, "go", "test", "-v", "-tags", "giouring", "-ldflags=-checklinkname=0", "./uring")
	})
	return verdicts
}

// verdictOf is one check's.
func verdictOf(err error) (passed, failed int, _ error) {
	if err != nil {
		return 0, 1, err
	}
	return 1, 0, nil
}

// command runs a program and gives its output, which is shown when it fails.
func command(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	b, err := cmd.CombinedOutput()
	if err != nil {
		os.Stdout.Write(b)
		err = fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return string(b), err
}

var verdict = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL): (\S+)`)

// passing lines say nothing when something else failed.
var passing = regexp.MustCompile(`(?m)^\s*(=== (RUN|PAUSE|CONT)|--- PASS:) .*\n`)

// count reads what go test -v prints: how many tests passed, and which failed.
func count(out string) (passed int, failed []string) {
	for _, m := range verdict.FindAllStringSubmatch(out, -1) {
		if m[1] == "PASS" {
			passed++
		} else {
			failed = append(failed, m[2])
		}
	}
	return passed, failed
}

// because names the tests that failed in an error.
func because(err error, failed []string) error {
	if err == nil || len(failed) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(failed, ", "))
}

// tests runs go test at a nice value and counts; of the output only the packages' lines and failures are shown.
func tests(dir string, nice int, args ...string) (int, int, error) {
	cmd := exec.Command("nice", append([]string{"-n", strconv.Itoa(nice)}, args...)...)
	cmd.Dir = dir
	b, err := cmd.CombinedOutput()
	p, f := count(string(b))
	if err != nil {
		os.Stdout.WriteString(passing.ReplaceAllString(string(b), ""))
		return p, max(len(f), 1), because(fmt.Errorf("%s: %w", strings.Join(args, " "), err), f)
	}
	for s := range strings.Lines(string(b)) {
		if strings.HasPrefix(s, "ok ") || strings.Contains(s, "seeds") {
			fmt.Print(s)
		}
	}
	if p == 0 {
		return 0, 1, fmt.Errorf("%s: no test ran", strings.Join(args, " "))
	}
	return p, len(f), nil
}

// guests runs the VM tests on one kernel, a boot for each batch.
func (c *TestCmd) guests(t *tally, kernel string) error {
	j, clean, err := job(t.l, kernel)
	defer clean()
	if err != nil {
		return err
	}
	j.Tree = true
	bins := map[string]string{}
	for _, b := range vmBatches {
		run := b.run(j.Kernel.Version)
		if c.Filter != "" {
			run = c.Filter
		}
		if bins[b.pkg] == "" {
			out := filepath.Join(filepath.Dir(j.Init), filepath.Base(b.pkg)+".test")
			if err := build(out, b.pkg, "test", "-c", "-tags", "vm", "-trimpath"); err != nil {
				return err
			}
			bins[b.pkg] = out
		} else if c.Filter != "" {
			continue
		}
		name := fmt.Sprintf("%s on %s: %s", b.pkg, j.Kernel.Version, run)
		t.phase(name, func() (int, int, error) {
			g := j
			processors(&g, b.cpus)
			g.Files = map[string]string{"/test/vm.test": bins[b.pkg]}
			for k, v := range j.Files {
				g.Files[k] = v
			}
			var p, code int
			var f []string
			var err error
			for try := range 2 {
				var out strings.Builder
				g.Dir, g.Out = "/test", &tee{&out}
				g.Args = []string{"/test/vm.test", "-test.v", "-test.timeout", "29m", "-test.run", run}
				code, err = t.l.Run(g)
				p, f = count(out.String())
				if !errors.Is(err, vm.ErrKernel) || len(f) > 0 || try > 0 {
					break
				}
				// An emulated processor errs now and then; what our code does to a kernel it does again.
				t.again = append(t.again, fmt.Sprintf("%s: %v", name, err))
				t.l.Say("no test failed, but the guest's kernel did: once more (%v)", err)
			}
			if err == nil && code != 0 {
				err = exitCode(code)
			}
			if err == nil && p == 0 && c.Filter == "" {
				err = errors.New("no test ran")
			}
			return p, len(f), because(err, f)
		})
	}
	return nil
}

// tee shows what the guest prints and keeps it.
type tee struct{ b *strings.Builder }

func (t *tee) Write(p []byte) (int, error) {
	os.Stdout.Write(p)
	return t.b.Write(p)
}
