package benchrun

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	listen   = "127.0.0.1:7789"
	stateDir = "/var/lib/robib-ublk"
	// settle is how long nothing is done before something is timed: idle time costs nothing here.
	settle = 5 * time.Second
	// limit bounds each wait, in the guest's time.
	limit = 10 * time.Minute
	// rateSeconds and workSeconds bound a workload whose requests are not done by then: when its
	// rate, and when its instructions are measured.
	rateSeconds, workSeconds = 60, 2
)

// resultMark begins a line of output that is a result in JSON; every other line is for people.
const (
	resultMark = "BENCH-RESULT "
	courseMark = "BENCH-COURSE "
)

// Guest measures one case, inside the guest, and prints its results.
func Guest(c Case) error {
	// The state must not lie on the emulated disk: its answers come in the host's time.
	if err := unix.Mount("state", stateDir, "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount %s: %w", stateDir, err)
	}
	g := guest{c: c}
	dev, err := g.device()
	if err != nil {
		return err
	}
	time.Sleep(settle)
	if c.Sustained {
		return g.course(dev)
	}
	if _, err := fio(fillArgs(dev, regionMiB)); err != nil {
		return err
	}
	time.Sleep(settle)
	if _, err := fio(warmArgs(dev)); err != nil {
		return err
	}
	results, err := g.rates(dev)
	if err != nil {
		return err
	}
	return g.work(dev, results)
}

// guest is one case under way.
type guest struct {
	c     Case
	disks disks
}

// device makes what is measured and returns its path.
func (g *guest) device() (string, error) {
	if g.c.Kind == kindNull {
		return target("null")
	}
	size := dataMiB
	if g.c.Sustained {
		size = spanMiB
	}
	data, err := g.disks.make("data", g.c.Data, size)
	if err != nil {
		return "", err
	}
	if g.c.Sustained {
		// The imitated disk takes its memory when a block is first written; a real one has it.
		if _, err := fio(fillArgs(data, spanMiB)); err != nil {
			return "", err
		}
	}
	switch g.c.Kind {
	case kindRaw:
		return data, nil
	case kindFile:
		if g.c.Probes {
			return target("file", data, "--latency")
		}
		return target("file", data)
	}
	return g.volume(data)
}

// target starts a bare ublk device, which lives as long as the guest.
func target(args ...string) (string, error) {
	cmd := exec.Command("robib-ublk", append([]string{"bench", "target"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", errors.Join(fmt.Errorf("bench target printed no device: %w", err), cmd.Wait())
	}
	return strings.TrimSpace(line), nil
}

// volume makes a volume, and its second copy in the same guest.
func (g *guest) volume(data string) (string, error) {
	size := logMiB
	if g.c.Sustained {
		size = SustainedMiB
	}
	log, err := g.disks.make("log", g.c.Log, size)
	if err != nil {
		return "", err
	}
	add := append(g.command("add", "p", data, log), g.c.Add...)
	if g.c.Peer {
		token, err := g.serve()
		if err != nil {
			return "", err
		}
		add = append(add, "--remote", listen, "--pair", token)
	}
	if _, err := robib(add...); err != nil {
		return "", err
	}
	dev, err := g.wait()
	if err == nil && g.c.Peer && !g.c.Sustained {
		// Its work would be counted with the client's; the first machine waits with its own while it is busy.
		_, err = robib("pause", "s", "destage")
	}
	return dev, err
}

// command is what makes one half of a volume.
func (g *guest) command(verb, name, data, log string) []string {
	c := []string{verb, "--name", name, "--disk", data, "--log", log, "--create-log"}
	if !g.c.Probes {
		c = append(c, "--no-latency")
	}
	return c
}

func (g *guest) serve() (string, error) {
	data, err := g.disks.make("data2", g.c.Data, dataMiB)
	if err != nil {
		return "", err
	}
	log, err := g.disks.make("log2", g.c.Log, logMiB)
	if err != nil {
		return "", err
	}
	out, err := robib(append(g.command("serve", "s", data, log), append(g.c.Serve, "--listen", listen)...)...)
	if err != nil {
		return "", err
	}
	for w := range strings.FieldsSeq(out) {
		if strings.HasPrefix(w, "robib1-") {
			return w, nil
		}
	}
	return "", fmt.Errorf("serve printed no pairing token:\n%s", out)
}

// wait returns the volume's device once it is in sync with its peer, if it has one, and nothing is left in the log.
func (g *guest) wait() (string, error) {
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		var v struct {
			State  string `json:"state"`
			Device string `json:"device"`
			Dirty  int64  `json:"dirty_bytes"`
		}
		out, err := exec.Command("robib-ublk", "-j", "status", "p").Output() // exits 3 while it is degraded
		if e := json.Unmarshal(out, &v); e != nil {
			return "", fmt.Errorf("status: %w", errors.Join(e, err))
		}
		if v.Device != "" && v.Dirty == 0 && (!g.c.Peer || v.State == "in sync") {
			fmt.Printf("%s: %s\n", v.Device, v.State)
			return v.Device, nil
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("waited %v for the volume; it is: %s", limit, v.State)
		}
	}
}

func robib(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	b, err := exec.CommandContext(ctx, "robib-ublk", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("robib-ublk %s: %w\n%s", strings.Join(args, " "), err, b)
	}
	return string(b), nil
}

// fio runs one job and returns what it printed.
func fio(args []string) ([]byte, error) {
	out, err := exec.Command("fio", args...).Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			out = append(out, e.Stderr...)
		}
		return nil, fmt.Errorf("fio: %w\n%s", err, out)
	}
	return out, nil
}

// rates runs the workloads for their rates.
func (g *guest) rates(dev string) (out []Result, err error) {
	for _, w := range inOrder(g.c.Workloads) {
		r, err := timed(w.args(dev, w.requests*g.c.Scale/100, rateSeconds))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
		r.Case, r.Workload = g.c.Name, w.Name
		if err := report(resultMark, r); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func timed(args []string) (Result, error) {
	b, err := fio(args)
	if err != nil {
		return Result{}, err
	}
	return parseFio(b)
}

// work runs the workloads again for their instructions: each with next to no requests, which
// shows what starting fio costs, and with more. Idle time is not free then, so they are few.
func (g *guest) work(dev string, results []Result) error {
	time.Sleep(settle)
	s, err := startSoaker()
	if err != nil {
		return err
	}
	defer s.stop()
	for _, r := range results {
		w := workload(r.Workload)
		var cost, requests [2]float64
		for i, n := range []int{w.depth, w.requests} {
			if cost[i], err = s.busy(func() error {
				x, err := timed(w.args(dev, n, workSeconds))
				requests[i] = float64(x.Requests)
				return err
			}); err != nil {
				return fmt.Errorf("%s: %w", w.Name, err)
			}
		}
		if requests[1] <= requests[0] {
			continue // too slow to tell
		}
		r.Instructions = (cost[1] - cost[0]) / (requests[1] - requests[0])
		if err := report(resultMark, r); err != nil {
			return err
		}
	}
	return nil
}

// report prints a result for the host.
func report(mark string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Printf("%s%s\n", mark, b)
	}
	return err
}

// course does the sustained run.
func (g *guest) course(dev string) error {
	const log = "/tmp/course"
	out, err := fio(sustainedArgs(dev, log))
	if err != nil {
		return err
	}
	if _, err := parseFio(out); err != nil {
		return err
	}
	f, err := os.Open(log + "_lat.1.log")
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := parseCourse(f)
	if err != nil {
		return err
	}
	c.Case = g.c.Name
	return report(courseMark, c)
}
