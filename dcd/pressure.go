package dcd

import (
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/ublk/blk"
)

// Watermarks of the log, in per cent, unless Options say otherwise. Below the low one destage
// waits for an idle disk. From there its share of the time grows in a line, and is all of it at
// the high one, from where writes are admitted no faster than space is given back.
const (
	DefaultLowWater  = 50
	DefaultHighWater = 80
)

// Watermarks puts the defaults in the place of zeros.
func Watermarks(low, high int) (int, int) {
	if low == 0 {
		low = DefaultLowWater
	}
	if high == 0 {
		high = DefaultHighWater
	}
	return low, high
}

const (
	growBatch     = 4             // a batch under full pressure is that many times DestageBytes
	batchNanos    = 2_000_000_000 // a batch should not take longer: space comes back in steps of it
	minBatch      = 16            // blocks
	busyDepth     = 8             // destage writes in flight while the client is busy, at full pressure
	maxPause      = 2_000_000_000
	yieldNanos    = 2_000_000 // the client is busy if it had a request in flight so recently
	throttleSlice = 50_000_000
	gatherShare   = 20     // part of the commit time that a batch may wait for company
	minGather     = 20_000 // shorter waits cost more than they gain
)

// pressure decides how hard destage works and how fast writes are admitted, from how full the
// log is and how fast its space comes back.
type pressure struct {
	c *Cache

	free    seglog.Pos // space below is free; when that was last seen to advance
	freeAt  int64
	rate    float64 // bytes of log given back in a second; 0: not known
	guessed float64 // what it may be meanwhile

	tokens  float64 // bytes of log that may be used now
	tokenAt int64
	held    bool // admission waits for tokens: counted once

	blockNanos float64 // that one block of a batch takes
	nextBatch  int64   // not before, unless idle or full

	lastBatch int   // requests in the newest commit
	gatherTo  int64 // the commit that waits for company goes then; 0: none waits
}

// fill is how full the log is, in per cent.
func (p *pressure) fill() float64 {
	used, of := p.c.log.Used()
	return float64(used) * 100 / float64(of)
}

// share is how much of the time destage should work: 0 at the low watermark, 1 at the high one.
func (p *pressure) share() float64 {
	lo, hi := float64(p.c.o.LowWater), float64(p.c.o.HighWater)
	return min(max((p.fill()-lo)/(hi-lo), 0), 1)
}

// watch notes how fast space comes back.
func (p *pressure) watch(now blk.Instant) {
	f := p.c.log.Free()
	switch {
	case p.freeAt == 0 || p.fill() < 10:
		p.free, p.freeAt = f, now.Mono
	case f != p.free && now.Mono-p.freeAt > 1_000_000:
		r := float64(f-p.free) * 1e9 / float64(now.Mono-p.freeAt)
		if p.rate == 0 {
			p.rate = r
		}
		// A long step counts for more: two seconds of it stand for everything before.
		w := min(float64(now.Mono-p.freeAt)/2e9+0.05, 1)
		p.rate += (r - p.rate) * w
		p.free, p.freeAt = f, now.Mono
	}
}

// admit says how many bytes of log the next segment may take, or when there will be some.
func (p *pressure) admit(now blk.Instant) (bytes int64, wake int64) {
	const all = 1 << 62
	hi := float64(p.c.o.HighWater)
	x := (p.fill() - hi) / (100 - hi)
	rate := p.rate
	if rate == 0 && x > 0 {
		rate = p.guess(now)
	}
	if x <= 0 || rate == 0 || p.c.follow {
		p.tokens, p.tokenAt, p.held = 0, now.Mono, false
		return all, blk.Never
	}
	// Half way up, as much comes in as goes out.
	speed := rate * min(0.5/x, 20)
	slice := max(speed*throttleSlice/1e9, 4096)
	p.tokens = min(p.tokens+speed*float64(now.Mono-p.tokenAt)/1e9, slice)
	p.tokenAt = now.Mono
	if p.tokens > 0 {
		p.held = false
		return int64(slice), blk.Never
	}
	if !p.held {
		p.held = true
		p.c.count.Throttled++
	}
	return 0, now.Mono + 1 + int64(-p.tokens*1e9/speed) + 100_000
}

// guess is what destage will give back in a second, from how far its first batches are, until
// something was given back; 0: none was begun.
func (p *pressure) guess(now blk.Instant) float64 {
	if d := &p.c.d; d.phase == writing && now.Mono > d.begun {
		p.guessed = float64(max(d.written, BlockBytes)) * 1e9 / float64(now.Mono-d.begun)
	}
	return p.guessed
}

// used is told how much log a segment took.
func (p *pressure) used(n int64) { p.tokens -= float64(n) }

// gather says whether a commit of n requests should wait for company, and until when: only when
// the last one had several clients, and for no more than a twentieth of what a commit takes.
func (p *pressure) gather(n int, now blk.Instant) (wake int64, wait bool) {
	window := p.c.log.AppendNanos() / gatherShare
	if p.lastBatch < 2 || n >= p.lastBatch || window < minGather {
		p.gatherTo = 0
		return blk.Never, false
	}
	if p.gatherTo == 0 {
		p.gatherTo = now.Mono + window
	}
	if now.Mono >= p.gatherTo {
		p.gatherTo = 0
		return blk.Never, false
	}
	return p.gatherTo, true
}

// committed is told how many requests a commit had.
func (p *pressure) committed(n int) { p.lastBatch, p.gatherTo = n, 0 }

// budget is how many blocks the next batch may have.
func (p *pressure) budget() int {
	n := float64(p.c.o.DestageBytes/BlockBytes) * (1 + (growBatch-1)*p.share())
	if p.blockNanos > 0 {
		n = min(n, max(batchNanos/p.blockNanos, minBatch))
	}
	return int(n)
}

// depth is how many destage writes may be in flight: the client goes first.
func (p *pressure) depth(now blk.Instant) int {
	switch {
	case p.c.d.all || p.c.full || p.c.logErr != nil || now.Mono-p.c.lastIO >= yieldNanos:
		return destageDepth
	}
	return 1 + int(p.share()*(busyDepth-1))
}

// finished is told what a batch took, and sets the pause that follows it.
func (p *pressure) finished(blocks int, took int64, now blk.Instant) {
	if blocks > 0 {
		t := float64(took) / float64(blocks)
		if p.blockNanos == 0 {
			p.blockNanos = t
		}
		p.blockNanos += (t - p.blockNanos) * 0.3
	}
	s := max(p.share(), 0.02)
	p.nextBatch = now.Mono + min(int64(float64(took)*(1-s)/s), maxPause)
}
