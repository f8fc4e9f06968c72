package benchrun

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Legend says what the tables' words mean and what they cannot say.
const Legend = `Compare ratios, not rates: there are no cache misses and no second CPU, and both ends of a mirror share the one.
Disks: nvme 15 us, 128 at a time; sata 80 us, 32; hdd 8 ms, one, no seeks; brd is the kernel's RAM disk. A case is KIND:LOG+DATA.
Workloads: r read, w write; r random 4 KiB, s sequential 128 KiB; depth; d O_DSYNC, f fsync after each. fio, libaio, direct.
`

// Report gathers what the guests print and prints it as tables.
type Report struct {
	Cases   []Case
	results []Result
	courses []Course
}

// Collector is a guest's output: results are kept, every other line goes to rest.
func (r *Report) Collector(rest io.Writer) io.Writer { return &collector{r: r, rest: rest} }

type collector struct {
	r    *Report
	rest io.Writer
	line []byte // not ended yet
}

// Write takes lines in pieces of any size.
func (c *collector) Write(p []byte) (int, error) {
	c.line = append(c.line, p...)
	for {
		at := bytes.IndexByte(c.line, '\n')
		if at < 0 {
			return len(p), nil
		}
		line := c.line[:at+1]
		if err := c.take(string(line)); err != nil {
			return 0, err
		}
		c.line = c.line[at+1:]
	}
}

func (c *collector) take(line string) error {
	if text, ok := strings.CutPrefix(line, resultMark); ok {
		var x Result
		if err := json.Unmarshal([]byte(text), &x); err != nil {
			return fmt.Errorf("result %q: %w", line, err)
		}
		if old := c.r.find(x.Case, x.Workload); old != nil {
			*old = x // with its instructions
		} else {
			c.r.results = append(c.r.results, x)
		}
		return nil
	}
	if text, ok := strings.CutPrefix(line, courseMark); ok {
		var x Course
		if err := json.Unmarshal([]byte(text), &x); err != nil {
			return fmt.Errorf("result %q: %w", line, err)
		}
		c.r.courses = append(c.r.courses, x)
		return nil
	}
	_, err := io.WriteString(c.rest, line)
	return err
}

func (r *Report) find(name, workload string) *Result {
	i := slices.IndexFunc(r.results, func(x Result) bool { return x.Case == name && x.Workload == workload })
	if i < 0 {
		return nil
	}
	return &r.results[i]
}

func (r *Report) course(name string) *Course {
	i := slices.IndexFunc(r.courses, func(x Course) bool { return x.Case == name })
	if i < 0 {
		return nil
	}
	return &r.courses[i]
}

// Print writes every table that there is something for.
func (r *Report) Print(w io.Writer) {
	var short, long []Case
	for _, c := range r.Cases {
		if c.Sustained {
			long = append(long, c)
		} else {
			short = append(short, c)
		}
	}
	if len(short) > 0 {
		r.printShort(w, short)
	}
	if len(long) > 0 {
		r.printLong(w, long)
	}
}

func (r *Report) printShort(w io.Writer, cases []Case) {
	var cols []*Workload
	for i := range workloads {
		if slices.ContainsFunc(cases, func(c Case) bool { return slices.Contains(c.Workloads, workloads[i].Name) }) {
			cols = append(cols, &workloads[i])
		}
	}
	table := func(title string, cell func(c *Case, w *Workload) string, skip func(c *Case) bool) {
		rows := [][]string{{"case"}}
		for _, c := range cols {
			rows[0] = append(rows[0], c.Name)
		}
		for i := range cases {
			if skip(&cases[i]) {
				continue
			}
			row := []string{cases[i].Name}
			for _, c := range cols {
				row = append(row, cell(&cases[i], c))
			}
			rows = append(rows, row)
		}
		if len(rows) > 1 {
			printTable(w, title, rows)
		}
	}
	none := func(*Case) bool { return false }
	table("IOPS; sr8 and sw8 MB/s", func(c *Case, w *Workload) string {
		return number(rate(r.find(c.Name, w.Name), w))
	}, none)
	table("Ratio to the bare disk / to the bare ublk device on it (of a volume: its log's model)", func(c *Case, w *Workload) string {
		x := rate(r.find(c.Name, w.Name), w)
		out := ratio(x, rate(r.find(c.Raw, w.Name), w))
		if c.File != "" {
			out += " / " + ratio(x, rate(r.find(c.File, w.Name), w))
		}
		return out
	}, func(c *Case) bool { return c.Raw == "" })
	table("Instructions per request, of everything: fio, kernel, servers, both ends", func(c *Case, w *Workload) string {
		if x := r.find(c.Name, w.Name); x != nil && x.Instructions > 0 {
			return number(x.Instructions)
		}
		return "-"
	}, none)
}

func (r *Report) printLong(w io.Writer, cases []Case) {
	rows := [][]string{{"case", "s1", "s2", "s3", "s4", "lowest second", "longest ms", "s2..s4 to the bare data disk"}}
	for _, c := range cases {
		row := []string{c.Name}
		x, raw := r.course(c.Name), r.course(c.Raw)
		if x == nil {
			rows = append(rows, append(row, "-", "-", "-", "-", "-", "-", "-"))
			continue
		}
		for _, q := range x.Quarters {
			row = append(row, number(q))
		}
		low := "-"
		if x.LowestSecond >= 0 {
			low = fmt.Sprintf("%.0f", x.LowestSecond)
		}
		to := "-"
		if raw != nil && raw != x {
			to = ratio(x.Later, raw.Later)
		}
		rows = append(rows, append(row, low, number(x.LongestMillis), to))
	}
	printTable(w, fmt.Sprintf("Sustained: 4 KiB random writes, depth 32, over %d MiB, four times a log of %d MiB; IOPS by quarter", spanMiB, SustainedMiB), rows)
}

func rate(r *Result, w *Workload) float64 {
	switch {
	case r == nil:
		return 0
	case w.Megabytes():
		return r.MBPerSecond
	}
	return r.IOPS
}

func ratio(x, to float64) string {
	if x == 0 || to == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", x/to)
}

// number shows thousands apart, and small ones with a decimal.
func number(x float64) string {
	switch {
	case x == 0:
		return "-"
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	s := fmt.Sprintf("%.0f", x)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// printTable aligns a table that is Markdown, too. The first row is the head, the first column text.
func printTable(w io.Writer, title string, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, s := range row {
			width[i] = max(width[i], utf8.RuneCountInString(s))
		}
	}
	fmt.Fprintf(w, "\n%s\n\n", title)
	for n, row := range rows {
		for i, s := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(s))
			if i == 0 {
				fmt.Fprintf(w, "| %s%s ", s, pad)
			} else {
				fmt.Fprintf(w, "| %s%s ", pad, s)
			}
		}
		fmt.Fprintln(w, "|")
		if n == 0 {
			for i, x := range width {
				end := ":"
				if i == 0 {
					end = "-"
				}
				fmt.Fprintf(w, "|%s%s", strings.Repeat("-", x+1), end)
			}
			fmt.Fprintln(w, "|")
		}
	}
}
