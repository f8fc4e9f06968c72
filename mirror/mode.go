package mirror

import "fmt"

// Mode says what an acknowledgement stands for.
type Mode uint8

// Modes. DRBD's names A and C are accepted.
const (
	Sync  Mode = 1 // durable on both machines
	Async Mode = 2 // durable here
)

func (m Mode) String() string {
	if m == Async {
		return "async"
	}
	return "sync"
}

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "sync", "C", "c", "":
		return Sync, nil
	case "async", "A", "a":
		return Async, nil
	case "semisync", "B", "b":
		return 0, fmt.Errorf("mode %q is not built yet: use sync (durable on both machines) or async (durable here)", s)
	}
	return 0, fmt.Errorf("mode %q: use sync (durable on both machines) or async (durable here)", s)
}
