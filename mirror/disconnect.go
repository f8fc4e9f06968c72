package mirror

import "fmt"

// OnDisconnect says what happens to writes when the peer is lost.
type OnDisconnect uint8

// What may happen. Continue degrades the volume, after a durable mark that says so; the others never do.
const (
	Continue OnDisconnect = iota // writes go on at local speed, and the peer catches up later
	Suspend                      // they wait until the peer is back and level
	Error                        // they fail until then
)

func (d OnDisconnect) String() string { return [...]string{"continue", "suspend", "error"}[d] }

// ParseOnDisconnect reads one of the words.
func ParseOnDisconnect(s string) (OnDisconnect, error) {
	for d := Continue; d <= Error; d++ {
		if d.String() == s || s == "" && d == Continue {
			return d, nil
		}
	}
	return 0, fmt.Errorf("on-disconnect %q: continue (degrade, catch up later), suspend (writes wait) or error (writes fail)", s)
}

// SetOnDisconnect changes what happens, from now on and for a peer that is away already.
func (n *Node) SetOnDisconnect(d OnDisconnect) {
	n.o.OnDisconnect = d
	if !n.suspended {
		return
	}
	n.cache.RefuseWrites(d == Error)
	if d == Continue {
		n.suspended, n.bound = false, false
		n.unbind("set by the user")
	}
}

// suspend keeps what is not on both sides from being acknowledged.
func (n *Node) suspend(reason string) {
	if n.suspended {
		return
	}
	n.suspended, n.bound = true, true
	n.holdAcks()
	n.cache.RefuseWrites(n.o.OnDisconnect == Error)
	n.event("writes", "served", n.o.OnDisconnect.String(), reason)
}

// resumeWrites lets writes go on once the peer is back and lacks nothing that the log has not.
func (n *Node) resumeWrites() {
	if !n.s.up || n.s.tail || n.full.active || n.lacks() {
		return
	}
	n.suspended, n.boundAt = false, n.log.Durable()
	n.cache.RefuseWrites(false)
	n.limitBound()
	n.event("writes", n.o.OnDisconnect.String(), "served", "the peer is back")
}
