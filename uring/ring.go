package uring

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Options of a Ring. The zero value is 256 entries of 64 bytes.
type Options struct {
	Entries   uint32 // submission entries, a power of two; 0 = 256
	CQEntries uint32 // completion entries; 0 = 4 × Entries
	SQE128    bool   // 128-byte entries, for commands with an 80-byte area
	Files     uint32 // fixed-file slots; 0 = 64
	Buffers   uint32 // registered-buffer slots; 0 = 16
}

// region is the address range of a registered buffer.
type region struct{ from, to uint64 }

// Ring is one io_uring. It belongs to one thread.
type Ring struct {
	fd     int
	regIdx int // index of the registered ring descriptor, or -1
	flags  uint32

	ringMem, sqeMem        []byte
	sqHead, sqTail, sqFlag *uint32
	cqHead, cqTail, cqOver *uint32
	sqMask, cqMask         uint32
	sqes                   []SQE
	cqes                   []CQE
	step                   uint32 // SQE slots per entry: 2 with SQE128
	tail                   uint32 // local; published once per enter
	submitted              uint32
	arg                    *waitArg
	argMem                 []byte

	files   []int32 // fixed-file table, -1 free
	bufCap  int
	regions []region // memory of the registered buffers, by index

	// Enters counts io_uring_enter calls, for reports.
	Enters uint64
}

// New makes a ring. It uses SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them, so all
// later calls must come from the calling thread: lock it first.
func New(o Options) (*Ring, error) {
	if o.Entries == 0 {
		o.Entries = 256
	}
	if o.CQEntries == 0 {
		o.CQEntries = 4 * o.Entries
	}
	if o.Files == 0 {
		o.Files = 64
	}
	if o.Buffers == 0 {
		o.Buffers = 16
	}
	base := uint32(setupCQSize | setupClamp)
	if o.SQE128 {
		base |= setupSQE128
	}
	// Newest first; an older kernel answers EINVAL to a flag it does not know.
	tries := []uint32{
		setupSubmitAll | setupSingleIssuer | setupDeferTaskrun | setupNoSQArray,
		setupSubmitAll | setupSingleIssuer | setupDeferTaskrun,
		setupSubmitAll | setupCoopTaskrun,
	}
	for _, t := range tries {
		r, err := newRing(o, base|t)
		if errors.Is(err, unix.EINVAL) {
			continue
		}
		return r, err
	}
	return nil, &FeatureError{"SUBMIT_ALL and COOP_TASKRUN", "5.19", unix.EINVAL}
}

func newRing(o Options, flags uint32) (*Ring, error) {
	p := &params{cqEntries: o.CQEntries, flags: flags}
	fd, err := setup(o.Entries, p)
	switch {
	case err == unix.ENOSYS:
		return nil, &FeatureError{"io_uring", "5.1", err}
	case err == unix.EPERM:
		return nil, &FeatureError{"io_uring for this user (sysctl kernel.io_uring_disabled)", "6.6", err}
	case err != nil:
		return nil, fmt.Errorf("io_uring_setup: %w", err)
	}
	r := &Ring{fd: fd, regIdx: -1, flags: flags, step: 1, bufCap: int(o.Buffers)}
	if flags&setupSQE128 != 0 {
		r.step = 2
	}
	if p.features&featSingleMmap == 0 || p.features&featExtArg == 0 || p.features&featNoDrop == 0 {
		r.Close()
		return nil, &FeatureError{"EXT_ARG, NODROP and one mapping", "5.11", unix.EOPNOTSUPP}
	}
	if err := r.mapRings(p); err != nil {
		r.Close()
		return nil, err
	}
	if err := r.registerTables(o); err != nil {
		r.Close()
		return nil, err
	}
	r.registerRing()
	return r, nil
}

// Close gives the ring back. Operations in flight are cancelled by the kernel, and their
// buffers must stay mapped until those have ended; a nil ring is allowed.
func (r *Ring) Close() error {
	if r == nil || r.fd < 0 {
		return nil
	}
	var errs []error
	for _, m := range [][]byte{r.ringMem, r.sqeMem, r.argMem} {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	r.ringMem, r.sqeMem, r.argMem = nil, nil, nil
	errs = append(errs, r.unregisterRing(), unix.Close(r.fd))
	r.fd = -1
	return errors.Join(errs...)
}

// FD is the ring's descriptor, for msg_ring from another ring.
func (r *Ring) FD() int { return r.fd }

// Get gives a zeroed entry, or nil: the queue is full until the next enter.
func (r *Ring) Get() *SQE {
	if r.tail-atomic.LoadUint32(r.sqHead) > r.sqMask {
		return nil
	}
	e := &r.sqes[(r.tail&r.sqMask)*r.step]
	*e = SQE{}
	if r.step == 2 {
		r.sqes[(r.tail&r.sqMask)*2+1] = SQE{}
	}
	r.tail++
	return e
}

// Ready counts completions that can be reaped without entering.
func (r *Ring) Ready() int {
	return int(atomic.LoadUint32(r.cqTail) - *r.cqHead)
}

// Submit hands all queued entries over without waiting.
func (r *Ring) Submit() error { return r.enter(0, 0, true) }

// SubmitAndWait hands all queued entries over and waits for n completions, at most for
// timeout ns (math.MaxInt64: for ever). A timeout is not an error.
func (r *Ring) SubmitAndWait(n uint32, timeout int64) error {
	return r.enter(n, timeout, false)
}

// enter is the one system call. raw skips the scheduler: only for calls that do not wait.
func (r *Ring) enter(wait uint32, timeout int64, raw bool) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	flags := uintptr(0)
	if wait > 0 || r.flags&setupDeferTaskrun != 0 || r.overflown() {
		flags = enterGetEvents
	}
	var arg *waitArg
	if wait > 0 && timeout != math.MaxInt64 {
		arg = r.arg
		arg.ts = Timespec{Sec: timeout / 1e9, Nsec: timeout % 1e9}
		flags |= enterExtArg
	}
	for {
		n := r.tail - r.submitted
		r.Enters++
		got, e := r.rawEnter(n, wait, flags, arg, raw)
		if e == 0 {
			r.submitted += uint32(got)
			if r.submitted == r.tail {
				return nil
			}
			continue
		}
		switch e {
		case unix.EINTR, unix.ETIME:
			// What was queued went in before the wait began.
			r.submitted = atomic.LoadUint32(r.sqHead)
			if r.submitted == r.tail {
				return nil
			}
		case unix.EAGAIN, unix.EBUSY:
			// The completion queue is full: reap first.
			r.submitted = atomic.LoadUint32(r.sqHead)
			return nil
		default:
			return fmt.Errorf("io_uring_enter: %w", e)
		}
	}
}

// Unsubmitted counts entries that are queued and not yet taken by the kernel.
func (r *Ring) Unsubmitted() int { return int(r.tail - r.submitted) }

func (r *Ring) overflown() bool { return atomic.LoadUint32(r.sqFlag)&(sqCQOverflow|sqTaskrun) != 0 }

// Peek gives the next completion without taking it.
func (r *Ring) Peek() (CQE, bool) {
	h := *r.cqHead
	if h == atomic.LoadUint32(r.cqTail) {
		return CQE{}, false
	}
	return r.cqes[h&r.cqMask], true
}

// Advance takes n completions.
func (r *Ring) Advance(n uint32) { atomic.StoreUint32(r.cqHead, *r.cqHead+n) }
