package mirror

import "github.com/robib-ublk/robib/ublk/blk"

// detour is what a primary does between the loss of a path to its peer and the answer of the others: nothing is
// acknowledged that the peer has not, nothing fails, and the policy of OnDisconnect waits. It ends with a session, a
// failed attempt, which has tried every path, or after Timing.Paths.
type detour struct {
	until    int64 // 0: there is none
	failures int   // of attempts, when it began
	reason   string
}

// mayReturn reports whether a peer whose session has ended may be back at once: there is another path to it, or another
// connection is there already.
func (n *Node) mayReturn() bool {
	return n.o.Net.Paths() > 1 || n.s.conn != nil || n.s.next.said || n.s.next.known
}

// takeDetour begins one if the peer may be back at once; else, or where writes wait for nobody, the policy acts now.
func (n *Node) takeDetour(reason string) bool {
	if n.detour.until > 0 || !n.mayReturn() || n.o.Mode == Async && n.o.OnDisconnect == Continue || n.apart || n.suspended {
		return false
	}
	n.detour = detour{n.now.Mono + n.o.Timing.Paths, n.dialFailures, reason}
	n.holdAcks()
	return true
}

// onDetour goes on with one.
func (n *Node) onDetour() (wake int64) {
	d := &n.detour
	switch {
	case n.dialFailures > d.failures || n.now.Mono >= d.until || n.s.up && (n.full.active || n.lacks()):
		n.endDetour()
		n.unbind(d.reason)
		return n.now.Mono
	case n.s.up && !n.s.tail:
		n.endDetour()
		n.boundAt = n.log.Durable()
		n.limitBound()
		return blk.Never
	}
	return d.until
}

func (n *Node) endDetour() { n.detour.until = 0 }
