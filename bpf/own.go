package bpf

// Own counts a server's requests by its stamps alone, where no probes can be attached. To it a request
// begins with Pickup and ends with Committed, so there are no stages of the kernel's; StageTotal is
// what lies between the two. It is used by one thread, and allocates nothing once it is made.
type Own struct {
	counted      Snapshot
	limit        int64
	rate         int
	second, told int64
	slow         []Request // not taken yet; never more than its capacity
}

// maxSlow is how many outliers an Own keeps until they are taken.
const maxSlow = 512

// NewOwn counts nothing yet.
func NewOwn() *Own { return &Own{rate: DefaultRate, slow: make([]Request, 0, maxSlow)} }

// Record counts a request that is about to be committed; its stamps are read only. One without Pickup
// was there before the server stamped, and is not counted. tell says that the request is an outlier of
// which Tell wants to know.
func (o *Own) Record(op Op, failed bool, stamps *[Stamps]int64) (tell bool) {
	at := stamps[Pickup]
	if at == 0 || op >= Ops {
		return false
	}
	h, end := &o.counted.Hists[op], max(at, stamps[Committed])
	total := end - at
	for s := Begun; s < Stamps; s++ {
		if t := stamps[s]; t != 0 {
			was := at
			at = min(max(at, t), end)
			h[StageDispatch+Stage(s)].Record(uint64(at - was))
		}
	}
	h[StageTotal].Record(uint64(total))
	if op == Read && stamps[Begun] != 0 {
		h[served(stamps)].Record(uint64(total))
	}
	if failed {
		o.counted.Stats.Failed++
	}
	if o.limit == 0 || total < o.limit {
		return false
	}
	o.counted.Stats.Slow++
	if s := end / 1e9; s != o.second {
		o.second, o.told = s, 0
	}
	if o.told == int64(o.rate) || len(o.slow) == cap(o.slow) {
		o.counted.Stats.Shed++
		return false
	}
	o.told++
	return true
}

// served is where a read that a cache took came from, as the kernel's programs have it.
func served(stamps *[Stamps]int64) Stage {
	switch {
	case stamps[PeerAcked] != 0:
		return StageFromPeer
	case stamps[DataDone] != 0:
		return StageFromData
	case stamps[LogDone] != 0:
		return StageFromLog
	}
	return StageFromRAM
}

// Tell keeps an outlier until it is taken.
func (o *Own) Tell(r Request) {
	if len(o.slow) < cap(o.slow) {
		o.slow = append(o.slow, r)
	}
}

// Take adds what came since the last call to list, oldest first.
func (o *Own) Take(list []Request) []Request {
	list = append(list, o.slow...)
	o.slow = o.slow[:0]
	return list
}

// SetThreshold makes requests that take at least t ns outliers, of which at most rate a second are told
// of; t 0 ends that.
func (o *Own) SetThreshold(t int64, rate int) { o.limit, o.rate = max(t, 0), max(rate, 0) }

// Threshold is what SetThreshold set.
func (o *Own) Threshold() (t int64, rate int) { return o.limit, o.rate }

// Copy copies what was counted of op into s.
func (o *Own) Copy(op Op, s *Snapshot) {
	if h := &o.counted.Hists[op]; h[StageTotal].Count > 0 {
		s.Hists[op] = *h
	}
}

// Sum makes s's statistics complete, once all operations are copied.
func (o *Own) Sum(s *Snapshot) {
	s.Stats = o.counted.Stats
	for op := range Ops {
		s.Stats.Completed += s.Hists[op][StageTotal].Count
	}
	s.Stats.Issued, s.Stats.Matched = s.Stats.Completed, s.Stats.Completed
}
