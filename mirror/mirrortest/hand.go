package mirrortest

import "github.com/robib-ublk/robib/mirror"

// How long a primary may take to hand its role over, and its peer waits for it, in ns.
const (
	handWait = 30_000_000
	askWait  = 60_000_000
)

// handing plays the server of a primary that was asked for its role: at most a step each turn.
type handing struct {
	p    *Pair
	from int
	node *mirror.Node // that was asked: a later life was not
	step int
	end  int64
}

// Steps of a handing: what comes next.
const (
	quiesce = iota // the device goes once its requests are answered
	handOver
	look
	save
	grant
	leave
)

// takesOver has the pair's primaries hand their roles over when asked.
func (p *Pair) takesOver() {
	p.OnePrimary = true
	p.Asked = func(i int, wait int64) {
		if p.hand == nil {
			p.hand = &handing{p: p, from: i, node: p.M[i].Node, end: p.W.Now + wait}
		}
	}
}

// turn goes on; false: this life's part is over.
func (h *handing) turn() bool {
	p, m := h.p, h.p.M[h.from]
	if m.Node != h.node {
		return false
	}
	keep := func(reason string) bool {
		h.node.KeepRole(reason)
		return false
	}
	if h.step <= look && p.W.Now > h.end {
		return keep("it takes too long")
	}
	switch h.step {
	case quiesce:
		if p.Load.Left = 0; !p.Load.Done() {
			return true
		}
	case handOver:
		done, err := h.node.HandOver()
		if err != nil {
			return keep(err.Error())
		}
		if !done {
			return true
		}
	case look:
		if !h.node.Handed() {
			return keep("the peer is gone")
		}
	case save:
		if p.W.Rand.IntN(3) > 0 {
			return true
		}
		m.Primary, p.Load = false, nil
	case grant:
		h.node.Grant()
	case leave:
		if h.node.Status().Connected && p.W.Now < h.end+askWait {
			return true
		}
		p.Crash(h.from)
		p.Start(h.from)
		return false
	}
	h.step++
	return true
}
