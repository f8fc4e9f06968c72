package uring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func newTestRing(t testing.TB, o Options) *Ring {
	t.Helper()
	runtime.LockOSThread() // a ring belongs to the thread that made it
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func reapOne(t *testing.T, r *Ring) CQE {
	t.Helper()
	if err := r.SubmitAndWait(1, 10e9); err != nil {
		t.Fatal(err)
	}
	c, ok := r.Peek()
	if !ok {
		t.Fatal("nothing completed")
	}
	r.Advance(1)
	return c
}

func mmap(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

func tempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Reads, writes, fixed files, fixed buffers, flush and fallocate against a real file.
func TestFileOperations(t *testing.T) {
	r := newTestRing(t, Options{})
	f := tempFile(t)
	mem := mmap(t, 8192)
	slot, err := r.RegisterFile(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	buf, err := r.RegisterBuffer(mem)
	if err != nil {
		t.Fatal(err)
	}
	copy(mem, "hello ring")
	steps := []struct {
		name string
		want int32
		prep func(e *SQE)
	}{
		{"write", 4096, func(e *SQE) { e.PrepWrite(slot, mem[:4096], 0); e.OpFlags = RWFDSync }},
		{"fsync", 0, func(e *SQE) { e.PrepFsync(slot, FsyncDatasync) }},
		{"read", 4096, func(e *SQE) { e.PrepRead(slot, mem[4096:], 0) }},
		{"write fixed", 4096, func(e *SQE) { e.PrepWriteFixed(slot, mem[4096:], 4096, buf) }},
		{"read fixed", 4096, func(e *SQE) { e.PrepReadFixed(slot, mem[:4096], 4096, buf) }},
		{"punch", 0, func(e *SQE) { e.PrepFallocate(slot, 3, 0, 4096) }},
		{"nop", 0, func(e *SQE) { e.PrepNop() }},
	}
	for i, s := range steps {
		e := r.Get()
		s.prep(e)
		if s.name != "nop" {
			e.Flags |= FixedFile
		}
		e.UserData = uint64(i) + 1
		if c := reapOne(t, r); c.Res != s.want || c.UserData != uint64(i)+1 {
			t.Fatalf("%s: %+v, want %d", s.name, c, s.want)
		}
	}
	if !bytes.HasPrefix(mem[4096:], []byte("hello ring")) || !bytes.HasPrefix(mem, []byte("hello ring")) {
		t.Fatal("data did not come back")
	}
	if err := r.UnregisterFile(slot); err != nil {
		t.Fatal(err)
	}
	e := r.Get()
	e.PrepRead(slot, mem[:512], 0)
	e.Flags |= FixedFile
	if c := reapOne(t, r); c.Res != -int32(unix.EBADF) {
		t.Fatalf("an empty slot read %d", c.Res)
	}
}

func TestTimeoutAndCancel(t *testing.T) {
	r := newTestRing(t, Options{})
	mem, ts, err := timespecs(2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	ts[0] = Timespec{Nsec: 1e6}
	r.Get().PrepTimeout(&ts[0], 0, 0)
	if c := reapOne(t, r); c.Res != -int32(unix.ETIME) {
		t.Fatalf("timeout: %+v", c)
	}
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	b := mmap(t, 4096)
	e := r.Get()
	e.PrepRead(int32(p[0]), b[:8], 0)
	e.UserData = 7
	if err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	e = r.Get()
	e.PrepCancel(7, 0)
	e.UserData = 8
	got := map[uint64]int32{}
	for range 2 {
		c := reapOne(t, r)
		got[c.UserData] = c.Res
	}
	if got[7] != -int32(unix.ECANCELED) || got[8] != 0 {
		t.Fatalf("cancel: %v", got)
	}
	// A bounded wait ends although nothing completes.
	if err := r.SubmitAndWait(1, 1e6); err != nil {
		t.Fatal(err)
	}
}

func TestSockets(t *testing.T) {
	r := newTestRing(t, Options{})
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	b := mmap(t, 4096)
	e := r.Get()
	e.PrepRecv(int32(p[1]), b[2048:], 0)
	e.Ioprio, e.UserData = RecvPollFirst, 1
	copy(b, "ping")
	e = r.Get()
	e.PrepSend(int32(p[0]), b[:4], unix.MSG_NOSIGNAL)
	e.UserData = 2
	got := map[uint64]int32{}
	for range 2 {
		c := reapOne(t, r)
		got[c.UserData] = c.Res
	}
	if got[1] != 4 || got[2] != 4 || string(b[2048:2052]) != "ping" {
		t.Fatalf("%v %q", got, b[2048:2052])
	}
}

func TestLongEntries(t *testing.T) {
	r := newTestRing(t, Options{Entries: 4, SQE128: true})
	for i := range uint64(20) {
		e := r.Get()
		e.PrepNop()
		e.UserData = i
		if len(r.Cmd(e)) != 80 {
			t.Fatal("command area")
		}
		if c := reapOne(t, r); c.UserData != i || c.Res != 0 {
			t.Fatalf("%+v", c)
		}
	}
}

func TestFullQueue(t *testing.T) {
	r := newTestRing(t, Options{Entries: 8})
	for range 8 {
		if r.Get() == nil {
			t.Fatal("full too early")
		}
	}
	if r.Get() != nil {
		t.Fatal("more entries than the queue has")
	}
	if err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	if r.Get() == nil {
		t.Fatal("still full after the kernel took all")
	}
}

// More completions than the queue has room for must all arrive.
func TestCompletionOverflow(t *testing.T) {
	r := newTestRing(t, Options{Entries: 8, CQEntries: 8})
	const n = 64
	seen := map[uint64]bool{}
	for i := range uint64(n) {
		e := r.Get()
		for e == nil {
			if err := r.Submit(); err != nil {
				t.Fatal(err)
			}
			e = r.Get()
		}
		e.UserData = i
	}
	for len(seen) < n {
		c := reapOne(t, r)
		seen[c.UserData] = true
	}
}

func TestMissingFeatureIsTyped(t *testing.T) {
	r := newTestRing(t, Options{})
	for _, op := range []uint8{OpRead, OpWrite, OpFsync, OpSend, OpRecv, OpTimeout, OpAsyncCancel, OpURingCmd, OpMsgRing, OpFallocate} {
		if ok, err := r.Supports(op); err != nil || !ok {
			t.Errorf("operation %d: %v %v", op, ok, err)
		}
	}
	if ok, err := r.Supports(250); err != nil || ok {
		t.Error("the kernel claims an operation that does not exist", err)
	}
	_, err := New(Options{Entries: 1 << 31})
	var f *FeatureError
	if err == nil || !errors.Is(err, unix.EINVAL) && !errors.As(err, &f) {
		t.Logf("clamped: %v", err)
	}
}

func TestEntryAllocatesNothing(t *testing.T) {
	r := newTestRing(t, Options{})
	if n := testing.AllocsPerRun(200, func() {
		for range 32 {
			r.Get().PrepNop()
		}
		if err := r.SubmitAndWait(32, 10e9); err != nil {
			t.Fatal(err)
		}
		r.Advance(uint32(r.Ready()))
	}); n != 0 {
		t.Fatalf("%v allocations per batch", n)
	}
}

func BenchmarkNopBatch32(b *testing.B) {
	r := newTestRing(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		for range 32 {
			r.Get().PrepNop()
		}
		if err := r.SubmitAndWait(32, 10e9); err != nil {
			b.Fatal(err)
		}
		r.Advance(uint32(r.Ready()))
	}
}
