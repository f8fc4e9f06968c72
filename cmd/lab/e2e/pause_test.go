//go:build vm

package e2e

import "time"

// pause waits some seconds so that I/O is under way, or until the I/O has ended.
func pause(ended <-chan struct{}, seconds int) {
	t := time.NewTimer(time.Duration(seconds) * time.Second)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ended:
	}
}
