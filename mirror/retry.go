package mirror

// retry is when a connection that could not be made, or was lost, is dialed again.
type retry struct {
	backoff  int64 // after the newest loss; 0: there was none
	nextDial int64
}

// wait puts the next attempt off, for longer each time, with a part left to chance.
func (r *retry) wait(n *Node) {
	r.backoff = min(max(r.backoff*2, n.o.Timing.Backoff), n.o.Timing.BackoffTo)
	r.nextDial = n.now.Mono + r.backoff/2 + int64(n.o.Random()%uint64(r.backoff/2+1))
}
