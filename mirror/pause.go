package mirror

import "errors"

var errApart = errors.New("disconnected by the user")

// PauseResync keeps full syncs, map syncs and refills from taking further blocks, or lets them go on.
// The stream of writes goes on either way.
func (n *Node) PauseResync(on bool) { n.resyncPaused = on }

// shut is why there is no session, or nil.
func (n *Node) shut() error {
	switch {
	case n.apart:
		return errApart
	case n.failed != nil && !n.primary:
		return n.failed
	}
	return nil
}

// unmet is why no new session is made, or nil.
func (n *Node) unmet() error {
	if n.swap.handed {
		return errHanded
	}
	return n.shut()
}

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
	n.s.retry = retry{}
}
