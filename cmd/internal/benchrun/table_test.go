package benchrun

import (
	"strings"
	"testing"
)

func TestTables(t *testing.T) {
	r := Report{Cases: []Case{
		{Name: "raw:nvme", Workloads: []string{"rw1", "sw8"}},
		{Name: "file:nvme", Workloads: []string{"rw1", "sw8"}, Raw: "raw:nvme"},
		{Name: "sync:nvme+nvme", Workloads: []string{"rw1", "sw8"}, Raw: "raw:nvme", File: "file:nvme"},
		{Name: "raw:hdd", Sustained: true, Raw: "raw:hdd"},
		{Name: "dcd:nvme+hdd", Sustained: true, Raw: "raw:hdd"},
		{Name: "dcd:sata+hdd", Sustained: true, Raw: "raw:hdd"},
	}}
	var rest strings.Builder
	w := r.Collector(&rest)
	in := `BENCH-RESULT {"case":"raw:nvme","workload":"rw1","iops":32000}
a note
BENCH-RESULT {"case":"raw:nvme","workload":"sw8","mb_per_s":950.4,"iops":7251}
BENCH-RESULT {"case":"raw:nvme","workload":"rw1","iops":32000,"instructions":15442.4}
BENCH-RESULT {"case":"file:nvme","workload":"rw1","iops":16000,"instructions":41000}
BENCH-RESULT {"case":"sync:nvme+nvme","workload":"rw1","iops":8000}
BENCH-COURSE {"case":"raw:hdd","quarters_iops":[125,125,125,125],"later_iops":125,"lowest_second_iops":124,"longest_ms":300.26}
BENCH-COURSE {"case":"dcd:nvme+hdd","quarters_iops":[20000,150,140,130],"later_iops":140,"lowest_second_iops":-1,"longest_ms":1200}
`
	for i := 0; i < len(in); i += 7 { // as a serial port gives it
		if _, err := w.Write([]byte(in[i:min(i+7, len(in))])); err != nil {
			t.Fatal(err)
		}
	}
	if rest.String() != "a note\n" {
		t.Errorf("rest: %q", rest.String())
	}
	var got strings.Builder
	r.Print(&got)
	want := `
IOPS; sr8 and sw8 MB/s

| case           |    rw1 | sw8 |
|----------------|-------:|----:|
| raw:nvme       | 32,000 | 950 |
| file:nvme      | 16,000 |   - |
| sync:nvme+nvme |  8,000 |   - |

Ratio to the bare disk / to the bare ublk device on it (of a volume: its log's model)

| case           |           rw1 |   sw8 |
|----------------|--------------:|------:|
| file:nvme      |         0.500 |     - |
| sync:nvme+nvme | 0.250 / 0.500 | - / - |

Instructions per request, of everything: fio, kernel, servers, both ends

| case           |    rw1 | sw8 |
|----------------|-------:|----:|
| raw:nvme       | 15,442 |   - |
| file:nvme      | 41,000 |   - |
| sync:nvme+nvme |      - |   - |

Sustained: 4 KiB random writes, depth 32, over 512 MiB, four times a log of 64 MiB; IOPS by quarter

| case         |     s1 |  s2 |  s3 |  s4 | lowest second | longest ms | s2..s4 to the bare data disk |
|--------------|-------:|----:|----:|----:|--------------:|-----------:|-----------------------------:|
| raw:hdd      |    125 | 125 | 125 | 125 |           124 |        300 |                            - |
| dcd:nvme+hdd | 20,000 | 150 | 140 | 130 |             - |      1,200 |                        1.120 |
| dcd:sata+hdd |      - |   - |   - |   - |             - |          - |                            - |
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestCollectorRefusesWhatItCannotRead(t *testing.T) {
	var r Report
	if _, err := r.Collector(&strings.Builder{}).Write([]byte("BENCH-RESULT {\n")); err == nil {
		t.Error("no error")
	}
}

func TestNumber(t *testing.T) {
	for x, want := range map[float64]string{0: "-", 7.25: "7.2", 99.96: "100.0", 125: "125", 999.6: "1,000", 1234567: "1,234,567"} {
		if got := number(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
}
