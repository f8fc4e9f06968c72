package blktest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/ublk/blk"
)

// bad is a device that does what it is told, wrong.
type bad struct {
	blk.Null
	submit func(r *blk.Request)
}

func (*bad) Info() blk.Info {
	return blk.Info{SizeBytes: 64 << 10, LogicalBytes: 1024, PhysicalBytes: 4096, WriteZeroes: true}
}
func (b *bad) Submit(r *blk.Request) { b.submit(r) }

func good(r *blk.Request) { r.Err = 0; r.Owner.Complete(r) }

// breaches gives what a Check over submit says of what f does.
func breaches(submit func(*blk.Request), f func(c *Check)) []string {
	var out []string
	f(NewCheck(&bad{submit: submit}, func(s string, a ...any) { out = append(out, fmt.Sprintf(s, a...)) }))
	return out
}

func request(change func(r *blk.Request)) *blk.Request {
	r := &blk.Request{Op: blk.Write, Length: 1024, Buf: make([]byte, 1024), Owner: completer(func(*blk.Request) {})}
	change(r)
	return r
}

// Every way in which the submitter can break the contract is noticed, and the device never sees it.
func TestCheckNoticesTheSubmitter(t *testing.T) {
	rows := map[string]func(r *blk.Request){
		"beyond":          func(r *blk.Request) { r.Offset = 64 << 10 },
		"negative":        func(r *blk.Request) { r.Offset = -1024 },
		"wrapping":        func(r *blk.Request) { r.Offset = 1<<63 - 1024 },
		"empty":           func(r *blk.Request) { r.Length = 0 },
		"misaligned":      func(r *blk.Request) { r.Offset = 512 },
		"odd length":      func(r *blk.Request) { r.Length = 512 },
		"short buffer":    func(r *blk.Request) { r.Length = 2048 },
		"odd buffer":      func(r *blk.Request) { r.Buf = make([]byte, 4096)[16:] },
		"buffer on flush": func(r *blk.Request) { r.Op = blk.Flush },
		"buffer on zero":  func(r *blk.Request) { r.Op = blk.WriteZeroes },
		"no discard":      func(r *blk.Request) { r.Op, r.Buf = blk.Discard, nil },
		"FUA read":        func(r *blk.Request) { r.Op, r.Flags = blk.Read, blk.FUA },
		"NoUnmap write":   func(r *blk.Request) { r.Flags = blk.NoUnmap },
		"unknown":         func(r *blk.Request) { r.Op, r.Buf = 9, nil },
	}
	for name, change := range rows {
		back := 0
		got := breaches(func(*blk.Request) { t.Errorf("%s: the device saw it", name) }, func(c *Check) {
			r := request(change)
			r.Owner = completer(func(*blk.Request) { back++ })
			c.Submit(r)
			if r.Err == 0 {
				t.Errorf("%s: no error", name)
			}
		})
		if len(got) != 1 || back != 1 {
			t.Errorf("%s: %q, %d completions", name, got, back)
		}
	}
	for name, change := range map[string]func(r *blk.Request){
		"write": func(*blk.Request) {}, "FUA": func(r *blk.Request) { r.Flags = blk.FUA },
		"zero":  func(r *blk.Request) { r.Op, r.Flags, r.Buf = blk.WriteZeroes, blk.NoUnmap, nil },
		"flush": func(r *blk.Request) { r.Op, r.Length, r.Buf = blk.Flush, 0, nil },
		"last":  func(r *blk.Request) { r.Offset = 63 << 10 },
	} {
		if got := breaches(good, func(c *Check) { c.Submit(request(change)) }); len(got) != 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestCheckNoticesTheDevice(t *testing.T) {
	none := func(*blk.Request) {}
	rows := map[string]struct {
		submit func(r *blk.Request)
		want   string
	}{
		"twice":           {func(r *blk.Request) { good(r); good(r) }, "twice"},
		"by its owner":    {func(r *blk.Request) { o := r.Owner; good(r); o.Complete(r) }, "twice"},
		"as another":      {func(r *blk.Request) { x := *r; r.Owner.Complete(&x) }, "another"},
		"Err left":        {func(r *blk.Request) { r.Owner.Complete(r) }, "clear"},
		"other offset":    {func(r *blk.Request) { r.Offset += 1024; good(r) }, "came back"},
		"other tag":       {func(r *blk.Request) { r.Tag++; good(r) }, "came back"},
		"another op":      {func(r *blk.Request) { r.Op = blk.Read; good(r) }, "came back"},
		"buffer lost":     {func(r *blk.Request) { r.Buf = nil; good(r) }, "buffer"},
		"data changed":    {func(r *blk.Request) { r.Buf[5] ^= 1; good(r) }, "changed"},
		"never completed": {none, "in flight"},
	}
	for name, row := range rows {
		got := breaches(row.submit, func(c *Check) {
			c.Submit(request(func(*blk.Request) {}))
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		if len(got) == 0 || !strings.Contains(got[0], row.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestCheckNoticesTheOrder(t *testing.T) {
	var kept *blk.Request
	keep := func(r *blk.Request) { r.Err = 0; kept = r }
	complete := func() { kept.Owner.Complete(kept) }
	rows := map[string]struct {
		f    func(c *Check)
		want string
	}{
		"submitted twice": {func(c *Check) { r := request(func(*blk.Request) {}); c.Submit(r); c.Submit(r) }, "submitted twice"},
		"submit in complete": {func(c *Check) {
			c.Submit(request(func(r *blk.Request) {
				r.Owner = completer(func(*blk.Request) { c.Submit(request(func(*blk.Request) {})) })
			}))
			complete()
		}, "inside"},
		"kick in complete": {func(c *Check) {
			c.Submit(request(func(r *blk.Request) { r.Owner = completer(func(*blk.Request) { c.Kick(blk.Instant{}) }) }))
			complete()
		}, "inside"},
		"submit after close": {func(c *Check) { c.Close(); c.Submit(request(func(*blk.Request) {})) }, "after close"},
		"kick after close":   {func(c *Check) { c.Close(); c.Kick(blk.Instant{}) }, "after close"},
		"close twice":        {func(c *Check) { c.Close(); c.Close() }, "closed twice"},
	}
	for name, row := range rows {
		if got := breaches(keep, row.f); len(got) == 0 || !strings.Contains(got[0], row.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	got := breaches(keep, func(c *Check) {
		c.Submit(request(func(*blk.Request) {}))
		c.Close()
		complete()
	})
	if len(got) != 2 || !strings.Contains(got[1], "completed after close") {
		t.Errorf("completed after close: %q", got)
	}
}

// A spare buffer in the place of the request's own is allowed; what the device keeps for itself
// in the request is handed through.
func TestCheckPassesOn(t *testing.T) {
	spare := make([]byte, 1024)
	r := request(func(r *blk.Request) { r.Op, r.Tag = blk.Read, 7 })
	var back *blk.Request
	r.Owner = completer(func(r *blk.Request) { back = r })
	got := breaches(func(l *blk.Request) { l.Err, l.LSN, l.Buf = 5, 9, spare; l.Owner.Complete(l) }, func(c *Check) { c.Submit(r) })
	if len(got) != 0 || back != r || r.Err != 5 || r.LSN != 9 || &r.Buf[0] != &spare[0] || r.Tag != 7 {
		t.Errorf("%q %+v", got, r)
	}
}

func TestCheckCountsOverlaps(t *testing.T) {
	var c *Check
	breaches(func(r *blk.Request) {}, func(x *Check) {
		c = x
		c.Submit(request(func(*blk.Request) {}))
		c.Submit(request(func(*blk.Request) {}))
		c.Submit(request(func(r *blk.Request) { r.Op = blk.Read }))
		c.Submit(request(func(r *blk.Request) { r.Op, r.Offset = blk.Read, 1024 }))
		c.Submit(request(func(r *blk.Request) { r.Op, r.Length, r.Buf = blk.Flush, 0, nil }))
	})
	if c.Overlaps != 1 || c.ReadOverlaps != 2 || c.InFlight() != 5 {
		t.Error(c.Overlaps, c.ReadOverlaps, c.InFlight())
	}
}
