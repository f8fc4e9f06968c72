package blk

import "testing"

// layer is a full layer: a child request per parent, a done list, follow-up in Kick.
type layer struct {
	below      Device
	parts      []Request
	parent     []*Request
	free, done Queue
}

func newLayer(below Device, depth int) *layer {
	l := &layer{below: below, parts: make([]Request, depth), parent: make([]*Request, depth)}
	for i := range l.parts {
		l.parts[i].Tag, l.parts[i].Owner = uint32(i), l
		l.free.Push(&l.parts[i])
	}
	return l
}

func (l *layer) Info() Info          { return l.below.Info() }
func (l *layer) Close() error        { return l.below.Close() }
func (l *layer) Complete(p *Request) { l.done.Push(p) }

func (l *layer) Submit(r *Request) {
	p := l.free.Pop()
	l.parent[p.Tag] = r
	p.Op, p.Offset, p.Length, p.Buf = r.Op, r.Offset, r.Length, r.Buf
	l.below.Submit(p)
}

func (l *layer) Kick(now Instant) int64 {
	wake := l.below.Kick(now)
	for p := l.done.Pop(); p != nil; p = l.done.Pop() {
		r := l.parent[p.Tag]
		r.Err = p.Err
		r.Stamp(DataDone, now)
		l.free.Push(p)
		r.Owner.Complete(r)
	}
	return wake
}

type sink struct{ done int }

func (s *sink) Complete(*Request) { s.done++ }

// stack makes depth requests over n layers and gives what runs one batch of them.
func stack(n int) (batch func(), s *sink) {
	const depth = 32
	var top Device = &Null{SizeBytes: 1 << 30}
	for range n {
		top = newLayer(top, depth)
	}
	s = new(sink)
	reqs := make([]Request, depth)
	for i := range reqs {
		reqs[i] = Request{Op: Write, Length: 4096, Buf: make([]byte, 4096), Tag: uint32(i), Owner: s, Stamps: new(Stamps)}
	}
	return func() {
		for i := range reqs {
			top.Submit(&reqs[i])
		}
		top.Kick(Instant{Mono: 1})
	}, s
}

func TestSeamAllocatesNothing(t *testing.T) {
	batch, s := stack(2)
	if n := testing.AllocsPerRun(1000, batch); n != 0 {
		t.Fatalf("%v allocations per batch", n)
	}
	if s.done != 1001*32 {
		t.Fatalf("%d completions", s.done)
	}
}

func TestQueue(t *testing.T) {
	var q Queue
	reqs := make([]Request, 5)
	for round := range 3 {
		for i := range reqs {
			q.Push(&reqs[i])
		}
		if q.Len() != 5 || q.Head() != &reqs[0] {
			t.Fatal(round, q.Len())
		}
		for i := range reqs {
			if q.Pop() != &reqs[i] || reqs[i].Next != nil {
				t.Fatal("order", round, i)
			}
		}
		if q.Pop() != nil || q.Len() != 0 {
			t.Fatal("not empty")
		}
	}
}

func BenchmarkSeam2Layers(b *testing.B) {
	batch, _ := stack(2)
	b.ReportAllocs()
	for b.Loop() {
		batch()
	}
}
