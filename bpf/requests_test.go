package bpf

import (
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

// held is a loop device whose requests end only while its backing file system is thawed.
type held struct {
	*loop
	t      *testing.T
	mount  int
	frozen bool
	ring   *uring.Ring
	sent   int
}

func newHeld(t *testing.T) *held {
	t.Helper()
	under := newLoop(t)
	dir := t.TempDir()
	under.f.Close() // the file system wants it for itself
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-O", "^has_journal", under.path}, {"mount", under.path, dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v: %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	mount, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(mount) })
	h := &held{loop: newLoopSized(t, dir, 4<<20), t: t, mount: mount}
	runtime.LockOSThread() // the ring is this thread's
	t.Cleanup(runtime.UnlockOSThread)
	if h.ring, err = uring.New(uring.Options{Entries: 256}); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { h.ring.Close() })
	t.Cleanup(h.thaw)
	return h
}

// freeze holds writes back until thaw, which the test's end does too.
func (h *held) freeze() {
	h.t.Helper()
	const fifreeze = 0xc0045877
	if err := unix.IoctlSetInt(h.mount, fifreeze, 0); err != nil {
		h.t.Fatal(err)
	}
	h.frozen = true
}

func (h *held) thaw() {
	h.t.Helper()
	const fithaw = 0xc0045878
	if !h.frozen {
		return
	}
	h.frozen = false
	if err := unix.IoctlSetInt(h.mount, fithaw, 0); err != nil {
		h.t.Error(err)
	}
}

// write begins writes of 4 KiB, each submitted by itself.
func (h *held) write(at ...int64) {
	h.t.Helper()
	for _, off := range at {
		h.ring.Get().PrepWrite(int32(h.f.Fd()), h.buf[:4096], uint64(off))
		if err := h.ring.Submit(); err != nil {
			h.t.Fatal(err)
		}
		h.sent++
	}
}

// finish thaws and waits for all writes.
func (h *held) finish() {
	h.t.Helper()
	h.thaw()
	for ; h.sent > 0; h.sent-- {
		for h.ring.Ready() == 0 {
			if err := h.ring.SubmitAndWait(1, 20e9); err != nil {
				h.t.Fatal(err)
			}
		}
		if c, _ := h.ring.Peek(); c.Res != 4096 {
			h.t.Fatalf("a write ended with %d", c.Res)
		}
		h.ring.Advance(1)
	}
}

// flying waits until ok holds of the requests in flight.
func flying(t *testing.T, p *Probes, ok func(list []Request) bool) (list []Request) {
	t.Helper()
	for range 1000 {
		var err error
		if list, err = p.Inflight(); err != nil {
			t.Fatal(err)
		}
		if ok(list) {
			return list
		}
		if _, err := unix.Poll(nil, 10); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	t.Fatalf("it never happened: %d in flight", len(list))
	return nil
}

func trace(t *testing.T, p *Probes, l *loop, queues, depth int) *Device {
	t.Helper()
	d, err := p.AddDevice(l.rdev, queues, depth)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func snapshot(t *testing.T, d *Device) *Snapshot {
	t.Helper()
	s, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A flush ends twice, once for the disk's and once for its caller's request, and is counted once.
func TestFlushEndsTwice(t *testing.T) {
	l := newLoop(t)
	d := trace(t, open(t, Options{NoRing: true}), l, 0, 0)
	const n = 20
	for range n {
		if err := unix.Fsync(int(l.f.Fd())); err != nil {
			t.Fatal(err)
		}
	}
	s := snapshot(t, d)
	if s.Hists[Flush][StageTotal].Count != n || s.Stats.Issued != n || s.Stats.Completed != n || s.Stats.Unseen != n {
		t.Errorf("%+v of %d", s.Stats, n)
	}
}

// A read that is larger than a request becomes several, which are counted each with its own bytes.
func TestSplitRequests(t *testing.T) {
	l := newLoop(t)
	l.set("max_sectors_kb", "16")
	p := open(t, Options{NoRing: true})
	d := trace(t, p, l, 0, 0)
	if err := d.SetThreshold(1, 1000); err != nil {
		t.Fatal(err)
	}
	before := l.counts()
	if _, err := l.f.ReadAt(l.buf[:1<<16], 1<<20); err != nil {
		t.Fatal(err)
	}
	match(t, l, snapshot(t, d), before)
	list, err := p.Outliers()
	if err != nil || len(list) != 4 {
		t.Fatalf("%d requests, %v", len(list), err)
	}
	slices.SortFunc(list, func(a, b Request) int { return int(a.Sector) - int(b.Sector) })
	for i, r := range list {
		if r.Op != Read || r.Bytes != 16<<10 || r.Sector != uint64(1<<20+i<<14)/512 {
			t.Errorf("part %d: %+v", i, r)
		}
	}
}

// Of two requests that the scheduler makes one, the second ends without completion and is forgotten;
// the first has the bytes of both.
func TestMergedRequests(t *testing.T) {
	h := newHeld(t)
	h.set("scheduler", "mq-deadline")
	p := open(t, Options{NoRing: true})
	d := trace(t, p, h.loop, 0, 0)
	if err := d.SetThreshold(1, 1000); err != nil {
		t.Fatal(err)
	}
	merges := func() uint64 { return h.stat(map[Op]int{Write: 5})[Write] }
	before, merged := h.counts(), merges()
	h.freeze()
	waiting := func(list []Request) (n int) {
		for _, r := range list {
			if r.Issue == 0 {
				n++
			}
		}
		return n
	}
	// As many as the driver takes, and one more that shows that it takes no more.
	for at := int64(1 << 20); ; at += 8192 {
		h.write(at)
		if waiting(flying(t, p, func(l []Request) bool { return len(l) == h.sent })) > 0 {
			break
		}
		if h.sent > 200 {
			t.Skip("this driver takes everything")
		}
	}
	alone := h.sent
	h.write(0, 8192) // two that are not adjacent,
	list := flying(t, p, func(l []Request) bool { return len(l) == alone+2 })
	if n := waiting(list); n != 3 {
		t.Fatalf("%d wait in the scheduler", n)
	}
	h.write(4096) // and what lies between them
	flying(t, p, func(l []Request) bool { return len(l) == alone+1 })
	h.finish()
	s := snapshot(t, d)
	match(t, h.loop, s, before)
	if got := merges() - merged; got != 2 || s.Stats.Merged != 1 {
		t.Errorf("%+v, and the kernel merged %d", s.Stats, got)
	}
	if n := uint64(alone + 1); s.Stats.Completed != n || s.Stats.Issued != n {
		t.Errorf("%+v of %d", s.Stats, n)
	}
	slow, err := p.Outliers()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(slow, func(r Request) bool { return r.Sector == 0 })
	if i < 0 || slow[i].Bytes != 12<<10 || slow[i].Insert == 0 || slow[i].Issue < slow[i].Insert {
		t.Errorf("%+v", slow)
	}
	if list, err := p.Inflight(); err != nil || len(list) != 0 {
		t.Errorf("%d in flight, %v", len(list), err)
	}
}

// A tag is used again: what its slot held of an earlier request, of this server or of one that was
// killed while the request was in flight, is not taken for the new request's.
func TestTagsUsedAgain(t *testing.T) {
	h := newHeld(t)
	first, err := Open(Options{Slots: 128, NoRing: true})
	if err != nil {
		t.Fatal(err)
	}
	stamp := func(d *Device, r Request) {
		slot := r.Queue*d.Slots().Depth + r.Tag
		d.Slots().Stamp(slot, Pickup, r.Issue+1)
		d.Slots().Stamp(slot, Committed, r.Issue+2)
	}
	one := func(l []Request) bool { return len(l) == 1 && l[0].Issue != 0 }
	d := trace(t, first, h.loop, 1, 128)
	h.freeze()
	h.write(0)
	r := flying(t, first, one)[0]
	stamp(d, r)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	p := open(t, Options{Slots: 128, NoRing: true}) // another server's
	d = trace(t, p, h.loop, 1, 128)
	h.finish()
	if s := snapshot(t, d); s.Stats.Completed != 0 || s.Stats.Unseen != 1 {
		t.Errorf("issued before: %+v", s.Stats)
	}
	seen := map[int]bool{}
	for i := range 300 { // more than there are tags
		h.freeze()
		h.write(int64(i%64) << 13)
		r := flying(t, p, one)[0]
		if r.Stamps != [Stamps]int64{} {
			t.Fatalf("request %d on tag %d begins with %v", i, r.Tag, r.Stamps)
		}
		if i%3 != 0 {
			stamp(d, r)
		}
		seen[r.Tag] = true
		h.finish()
	}
	s := snapshot(t, d)
	if s.Stats.Completed != 300 || s.Stats.Matched != 200 || s.Hists[Write][StageCommit].Count != 200 || s.Hists[Write][StageDispatch].Max != 1 || s.Hists[Write][StageCommit].Max != 1 {
		t.Errorf("%+v, %d tags", s.Stats, len(seen))
	}
	if len(seen) == 300 {
		t.Error("no tag was used again")
	}
}

// A delay anywhere on a request's way is in the stage that ends there, in those that contain it, and
// in no other.
func TestDelayIsInItsStage(t *testing.T) {
	const delay = 1_000_000
	account := func(late int) (took [Stages]uint64) {
		prog, _, d := harness(t)
		m := latencyMadeUp{HasSlot: 1}
		at := uint64(1000)
		for i, to := range []*uint64{&m.Io.Start, &m.Io.Issue, &m.Slot.Posted, &m.Slot.Stamps[Pickup], &m.Slot.Stamps[Begun], &m.Slot.Stamps[LogDone], &m.Slot.Stamps[DataDone],
			&m.Slot.Stamps[PeerSent], &m.Slot.Stamps[PeerAcked], &m.Slot.Stamps[Committed], &m.Complete} {
			if at += uint64(100 + i); i == late {
				at += delay
			}
			*to = at
		}
		run(t, prog, d, m)
		s := snapshot(t, d)
		for st := range Stages {
			if from := st >= StageFromRAM && st <= StageFromPeer; s.Hists[Read][st].Count != 1 && !from {
				t.Errorf("%v: %d times", st, s.Hists[Read][st].Count)
			}
			took[st] = s.Hists[Read][st].Sum
		}
		return took
	}
	usual := account(0)
	for late, in := range map[int][]Stage{1: {StageQueue}, 2: {StageDispatch, StageRing, StageDevice}, 3: {StageDispatch, StageWake, StageDevice}, 4: {StageServer, StageDevice},
		5: {StageLog, StageDevice}, 6: {StageData, StageDevice}, 7: {StageSent, StageDevice}, 8: {StageAcked, StageDevice}, 9: {StageCommit, StageDevice}, 10: {StageComplete, StageDevice}} {
		took := account(late)
		for st := range Stages {
			want := usual[st]
			if st == StageTotal || st == StageFromPeer || slices.Contains(in, st) {
				want += delay
			}
			if took[st] != want {
				t.Errorf("delay %d: %v took %d ns, want %d", late, st, took[st], want)
			}
		}
	}
}
