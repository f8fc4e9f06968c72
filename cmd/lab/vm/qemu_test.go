package vm

import (
	"strings"
	"testing"
)

func TestComplaints(t *testing.T) {
	stall := "[ 1.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n[ 1.1] Call Trace:\n[ 1.2]  <TASK>\n"
	for _, x := range []struct {
		name, log string
		want      int
	}{
		{"a quiet boot", "[ 0.0] Linux version 6.12\n[ 0.1] tsc: Fast TSC calibration\n", 0},
		{"an oops", "[ 2.0] Oops: 0000 [#1]\n[ 2.1] Call Trace:\n", 2},
		{"a warning", "[ 2.0] WARNING: CPU: 0 PID: 1 at block/blk-mq.c:1\n", 1},
		{"a stall of the emulator's", stall, 0},
		{"a soft lockup", "[ 3.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n[ 3.1] Call Trace:\n", 0},
		{"an oops behind a stall", stall + "[ 2.0] Oops: 0000 [#1]\n", 1},
		{"a warning long after a stall", stall + strings.Repeat("[ 9.0] x\n", lateLines) + "[ 10.0] WARNING: CPU: 0\n", 1},
	} {
		if got := complaints(x.log); len(got) != x.want {
			t.Errorf("%s: %q", x.name, got)
		}
	}
}
