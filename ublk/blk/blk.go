package blk

import (
	"math"
	"syscall"
)

// SectorBytes is the unit of every offset and length, as in the kernel (512 whatever the disk).
const SectorBytes = 512

// Never is the wake time of a device that waits for completions only.
const Never = math.MaxInt64

// Instant is the time of one batch. Whoever drives the loop reads the clocks once per batch.
type Instant struct {
	Mono int64 // ns of CLOCK_MONOTONIC; every deadline is in it
	Wall int64 // ns since 1970; a label only, it may jump
}

// Stamps holds Instant.Mono by Stage, 0 where the request did not pass.
type Stamps [Stages]int64

// Request is one block operation. Its submitter allocates it once, at open, and lends it with
// Buf from Submit to Complete. Offset and Length are multiples of SectorBytes.
type Request struct {
	Op             Op
	Flags          Flags
	Offset, Length int64 // bytes

	// Buf holds Length bytes for Read and Write, nil otherwise. It starts on a 512-byte
	// boundary outside the Go heap (Alloc). A holder that must quarantine it completes the
	// request with a spare of the same size in its place.
	Buf    []byte
	Tag    uint32    // the submitter's own number, handed back untouched
	Owner  Completer // told exactly once
	Stamps *Stamps   // nil: not traced

	// The holder's own from Submit to Complete, so that no layer needs tables of its own.
	Next *Request // link in the holder's queue
	LSN  uint64   // write: where it was logged; read from a peer: answer no older than this
	Left int32    // parts outstanding
	Err  syscall.Errno
}

// Replaced reports whether r came back with a spare in the place of own, the buffer that it was
// submitted with: the kernel may still write to that.
func (r *Request) Replaced(own []byte) bool { return len(r.Buf) > 0 && &r.Buf[0] != &own[0] }

// Device executes requests. Every call comes from the one loop and none blocks.
type Device interface {
	Info() Info

	// Submit takes r and cannot fail: r completes exactly once, perhaps before Submit
	// returns, and only when nothing, the kernel included, can touch Buf again. Requests in
	// flight that overlap are unordered. Submit clears r.Err.
	Submit(r *Request)

	// Kick ends a batch whose Submits and Completes are all made. It is the one place for
	// follow-up work, group commit and deadlines. It returns the Mono time at which to be
	// called although nothing happens: at once (<= now.Mono), a deadline, or Never.
	Kick(now Instant) (wake int64)

	// Close is called with nothing in flight; it waits for what the device itself started.
	Close() error
}

// Completer gets requests back.
type Completer interface {
	// Complete returns r, its Buf and r.Err. It only records: it neither submits nor
	// completes other requests; that happens in the owner's next Kick.
	Complete(r *Request)
}

// Drive advances the world that completes requests until something has happened (one batch
// of a ring, one step of a simulator) and gives the time. It serves code that runs before
// the loop does: recovery, log check. It fails when nothing can complete any more.
type Drive func() (Instant, error)

// Do submits r to d and drives until it is back; it takes r.Owner. Never inside Kick or Complete.
func Do(d Device, r *Request, drive Drive) error {
	w := waiter{}
	r.Owner = &w
	d.Submit(r)
	now := Instant{}
	for {
		d.Kick(now)
		if w.done {
			break
		}
		var err error
		if now, err = drive(); err != nil {
			return err
		}
	}
	if r.Err != 0 {
		return r.Err
	}
	return nil
}

type waiter struct{ done bool }

func (w *waiter) Complete(*Request) { w.done = true }
