package mirror

import "errors"

var errApart = errors.New("disconnected by the user")

// away is why no session is made, nil when one may be.
func (n *Node) away() error {
	switch {
	case n.apart:
		return errApart
	case n.swap.handed:
		return errHanded
	}
	return nil
}

// PauseResync keeps full syncs, map syncs and refills from taking further blocks, or lets them go on.
// The stream of writes goes on either way.
func (n *Node) PauseResync(on bool) { n.resyncPaused = on }

// Disconnect ends the session, and makes none until it is taken back. To a primary the peer is away.
func (n *Node) Disconnect(on bool) {
	if on == n.apart {
		return
	}
	n.apart = on
	if on {
		n.s.goodbye(errApart.Error())
		n.s.lost(errApart)
		n.s.lastErr = errApart.Error()
		return
	}
	n.s.backoff, n.s.nextDial = 0, 0
}
