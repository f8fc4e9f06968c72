package mirror

import "fmt"

// Bounds of the heartbeat and of how long a silent peer is waited for, in ns. Heartbeats are
// answered, so each side hears the other as often as it asks: the two need not agree.
const (
	MinHeartbeat = second / 10
	MaxHeartbeat = 60 * second
	MaxPeerDead  = 600 * second
	minBeats     = 3 // before the peer counts as dead: one or two that are late say nothing
)

// CheckTiming refuses a heartbeat and a peer-dead time, in ns (0: the default), that would take a
// peer for dead which is not, or never notice one that is.
func CheckTiming(heartbeat, peerDead int64) error {
	t := Timing{Heartbeat: heartbeat, PeerDead: peerDead}
	t.fill()
	switch {
	case t.Heartbeat < MinHeartbeat || t.Heartbeat > MaxHeartbeat:
		return fmt.Errorf("a heartbeat every %s: %s to %s", seconds(t.Heartbeat), seconds(MinHeartbeat), seconds(MaxHeartbeat))
	case t.PeerDead > MaxPeerDead:
		return fmt.Errorf("a peer that counts as dead after %s: at most %s", seconds(t.PeerDead), seconds(MaxPeerDead))
	case t.PeerDead < minBeats*t.Heartbeat:
		return fmt.Errorf("a peer that counts as dead after %s with a heartbeat every %s: at least %d heartbeats, which are %s",
			seconds(t.PeerDead), seconds(t.Heartbeat), minBeats, seconds(minBeats*t.Heartbeat))
	}
	return nil
}

// SetTiming changes them, from now on and for the session there is.
func (n *Node) SetTiming(heartbeat, peerDead int64) {
	n.o.Timing.Heartbeat, n.o.Timing.PeerDead = heartbeat, peerDead
	n.o.Timing.fill()
}

// Bounds of the other waits that users set, in ns.
const (
	MinWait = second
	MaxWait = 3600 * second
)

// CheckWaits refuses a start wait, a wait of the remote state or a deadline of the disks, in ns (0: the default), that
// nobody could mean.
func CheckWaits(waits ...int64) error {
	for _, w := range waits {
		if w != 0 && (w < MinWait || w > MaxWait) {
			return fmt.Errorf("%s: %s to %s", seconds(w), seconds(MinWait), seconds(MaxWait))
		}
	}
	return nil
}

// SetWaits changes how long a primary that starts asks for its peer, and how long a remote volume's I/O waits for it,
// in ns; 0: the default. They count at once.
func (n *Node) SetWaits(start, remote int64) {
	n.o.Timing.StartWait, n.o.Timing.Remote = start, remote
	n.o.Timing.fill()
}

func seconds(ns int64) string { return fmt.Sprintf("%gs", float64(ns)/second) }
