package benchrun

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Result is what one workload of one case came to.
type Result struct {
	Case         string  `json:"case"`
	Workload     string  `json:"workload"`
	Requests     int64   `json:"requests"`
	IOPS         float64 `json:"iops"`
	MBPerSecond  float64 `json:"mb_per_s"`
	MeanMicros   float64 `json:"mean_us"`
	P99Micros    float64 `json:"p99_us"`
	Instructions float64 `json:"instructions"` // that the CPU was busy with, per request
}

// fioSide is one direction of a job in fio's JSON.
type fioSide struct {
	Bytes    int64 `json:"io_bytes"`
	Millis   int64 `json:"runtime"`
	Requests int64 `json:"total_ios"`
	Latency  struct {
		Mean       float64            `json:"mean"`
		Percentile map[string]float64 `json:"percentile"`
	} `json:"lat_ns"`
}

// parseFio reads fio's JSON document, which warnings may stand before, into a result without names.
func parseFio(out []byte) (r Result, err error) {
	at := bytes.IndexByte(out, '{')
	if at < 0 {
		return r, fmt.Errorf("fio printed no JSON: %q", strings.TrimSpace(string(out)))
	}
	var doc struct {
		Jobs []struct {
			Error int     `json:"error"`
			Read  fioSide `json:"read"`
			Write fioSide `json:"write"`
		} `json:"jobs"`
	}
	if err := json.NewDecoder(bytes.NewReader(out[at:])).Decode(&doc); err != nil {
		return r, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(doc.Jobs) != 1 {
		return r, fmt.Errorf("fio's JSON: %d jobs, want 1", len(doc.Jobs))
	}
	j := &doc.Jobs[0]
	if j.Error != 0 {
		return r, fmt.Errorf("fio: error %d", j.Error)
	}
	var millis, total int64
	for _, s := range []*fioSide{&j.Read, &j.Write} {
		r.Requests += s.Requests
		total += s.Bytes
		millis = max(millis, s.Millis)
		r.MeanMicros += s.Latency.Mean * float64(s.Requests) / 1e3
		r.P99Micros = max(r.P99Micros, s.Latency.Percentile["99.000000"]/1e3)
	}
	if r.Requests == 0 {
		return r, errors.New("fio: no request was answered")
	}
	millis = max(millis, 1) // a few requests may take less
	r.MeanMicros /= float64(r.Requests)
	r.IOPS = float64(r.Requests) * 1e3 / float64(millis)
	r.MBPerSecond = float64(total) / float64(millis) / 1e3
	return r, nil
}

// Course is how a sustained run went.
type Course struct {
	Case          string     `json:"case"`
	Quarters      [4]float64 `json:"quarters_iops"`
	Later         float64    `json:"later_iops"`         // of the last three quarters together
	LowestSecond  float64    `json:"lowest_second_iops"` // of any second, wherever it begins; negative: the run was shorter
	LongestMillis float64    `json:"longest_ms"`         // one request took
}

// parseCourse reads fio's latency log: a line for each request in the order of their completion,
// "milliseconds since the start, latency in ns, direction, bytes, offset".
func parseCourse(log io.Reader) (c Course, err error) {
	var at []int64
	for s := bufio.NewScanner(log); ; {
		if !s.Scan() {
			if err := s.Err(); err != nil {
				return c, err
			}
			break
		}
		f := strings.Split(s.Text(), ",")
		if len(f) < 2 {
			return c, fmt.Errorf("fio's log: %q", s.Text())
		}
		ms, err1 := strconv.ParseInt(strings.TrimSpace(f[0]), 10, 64)
		ns, err2 := strconv.ParseInt(strings.TrimSpace(f[1]), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return c, fmt.Errorf("fio's log: %q: %w", s.Text(), err)
		}
		if n := len(at); n > 0 {
			ms = max(ms, at[n-1])
		}
		at = append(at, ms)
		c.LongestMillis = max(c.LongestMillis, float64(ns)/1e6)
	}
	n := len(at)
	if n < 4 {
		return c, fmt.Errorf("fio's log: only %d requests", n)
	}
	rate := func(from, to int) float64 { // of requests from … to-1
		begun := int64(0)
		if from > 0 {
			begun = at[from-1]
		}
		return float64(to-from) * 1e3 / float64(max(at[to-1]-begun, 1))
	}
	for q := range c.Quarters {
		c.Quarters[q] = rate(q*n/4, (q+1)*n/4)
	}
	c.Later = rate(n/4, n)
	c.LowestSecond = lowestSecond(at)
	return c, nil
}

// lowestSecond finds the second with the fewest completions; at is sorted, in ms, from 0 on.
func lowestSecond(at []int64) float64 {
	last := at[len(at)-1]
	if last < 1000 {
		return -1
	}
	lowest := len(at)
	from, to := 0, 0
	for t := int64(0); t+1000 <= last; t++ {
		for at[from] < t {
			from++
		}
		for to < len(at) && at[to] < t+1000 {
			to++
		}
		lowest = min(lowest, to-from)
	}
	return float64(lowest)
}
