package ublk

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// flusherEnv marks a process that has re-executed itself as an IO_FLUSHER.
const flusherEnv = "ROBIB_IO_FLUSHER"

// prIOFlusher is PR_SET_IO_FLUSHER of prctl(2), Linux 5.6.
const prIOFlusher = 57

// Process prepares this process for serving a disk that the system may swap or write back to:
// its allocations never wait for its own I/O (IO_FLUSHER), it is the last to be killed when
// memory runs out. It re-executes the program once, because the flag must be set before Go makes
// threads; call it first in main, with nothing open but what shall be inherited. What is not
// permitted is named in notes and done without.
func Process() (notes []string) {
	if os.Getenv(flusherEnv) == "" {
		runtime.LockOSThread()
		if err := unix.Prctl(prIOFlusher, 1, 0, 0, 0); err != nil {
			notes = append(notes, fmt.Sprintf("no IO_FLUSHER (%v): under memory pressure this process might wait for itself", err))
		}
		os.Setenv(flusherEnv, strings.Join(append([]string{"1"}, notes...), "|"))
		exe, err := os.Executable()
		if err == nil {
			err = unix.Exec(exe, os.Args, os.Environ())
		}
		return append(notes, fmt.Sprintf("no IO_FLUSHER: re-execute: %v", err))
	}
	notes = strings.Split(os.Getenv(flusherEnv), "|")[1:]
	os.Unsetenv(flusherEnv)
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		notes = append(notes, fmt.Sprintf("no protection from the OOM killer (%v)", err))
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		notes = append(notes, fmt.Sprintf("buffers may be paged out (raise RLIMIT_MEMLOCK): %v", err))
	}
	if runtime.GOMAXPROCS(0) < 3 {
		// One locked loop, its goroutines, and a spare P, or the loop waits for a busy goroutine.
		runtime.GOMAXPROCS(3)
	}
	return notes
}
