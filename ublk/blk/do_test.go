package blk

import (
	"errors"
	"syscall"
	"testing"
)

// later completes what it has in the kick after it was driven.
type later struct {
	Null
	q     Queue
	due   bool
	err   syscall.Errno
	kicks int
}

func (l *later) Submit(r *Request) { l.q.Push(r) }

func (l *later) Kick(Instant) int64 {
	l.kicks++
	for l.due && l.q.Head() != nil {
		r := l.q.Pop()
		r.Err = l.err
		r.Owner.Complete(r)
	}
	return Never
}

func TestDo(t *testing.T) {
	quiet := errors.New("quiet")
	for name, row := range map[string]struct {
		err   syscall.Errno
		drive error
		want  error
	}{"done": {0, nil, nil}, "failed": {syscall.EIO, nil, syscall.EIO}, "never comes back": {0, quiet, quiet}} {
		d := &later{err: row.err}
		driven := 0
		err := Do(d, &Request{Op: Flush}, func() (Instant, error) {
			driven++
			d.due = row.drive == nil
			return Instant{Mono: int64(driven)}, row.drive
		})
		if err != row.want || driven != 1 || row.drive == nil && d.kicks != 2 {
			t.Errorf("%s: %v after %d steps and %d kicks", name, err, driven, d.kicks)
		}
	}
	if err := Do(&Null{SizeBytes: 4096}, &Request{Op: Read, Length: 512}, func() (Instant, error) { return Instant{}, quiet }); err != nil {
		t.Errorf("completed inline: %v", err)
	}
}

func TestAlloc(t *testing.T) {
	for _, n := range []int{1, 4096, 4097, 1 << 20} {
		b, err := Alloc(n)
		if err != nil || len(b) < n || len(b)%4096 != 0 {
			t.Fatalf("%d bytes: %d, %v", n, len(b), err)
		}
		for i, x := range b {
			if x != 0 {
				t.Fatalf("byte %d of %d is %d", i, n, x)
			}
		}
		b[len(b)-1] = 1
		if err := Free(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := Free(nil); err != nil {
		t.Fatal(err)
	}
	if b, err := Alloc(0); err == nil {
		t.Fatalf("mapped %d bytes for none", len(b))
	}
}

func TestStamp(t *testing.T) {
	r := Request{}
	r.Stamp(LogDone, Instant{Mono: 5}) // not traced: nowhere to go
	r.Stamps = new(Stamps)
	r.Stamp(LogDone, Instant{Mono: 5})
	if r.Stamps[LogDone] != 5 || r.Stamps[DataDone] != 0 {
		t.Fatal(r.Stamps)
	}
}

func TestOpNames(t *testing.T) {
	seen := map[string]bool{}
	for o := Read; o <= WriteZeroes+1; o++ {
		seen[o.String()] = true
	}
	if len(seen) != 6 || !seen["unknown"] {
		t.Fatal(seen)
	}
}
