package link

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/uring"
)

// A peer that sends while nobody reads fills the buffer to the last byte: 15 records of the first
// RECV and 16 of the second one. TLS has nothing more to give then, and must not be asked again.
func TestBufferFills(t *testing.T) {
	a, b := paired(t)
	body := bytes.Repeat([]byte("robib"), wire.MaxBody/5)
	const full = recvBytes + 15*recordSize + wire.HeadBytes
	for _, room := range []int{full - 1, full, full + 1, full + recordSize} {
		onLoop(t, func(l *uring.Loop) {
			x, y, end := connect(t, l, a, b)
			if x == nil || y == nil {
				return
			}
			defer end()
			// A socket that holds much gives it at one go.
			if err := unix.SetsockoptInt(int(y.fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20); err != nil {
				t.Error(err)
			}
			turn := func() {
				if _, err := l.Once(l.Now() + 1e6); err != nil {
					t.Error(err)
				}
			}
			y.r, y.w = len(y.in)-100, len(y.in)-100 // as if that had been read
			x.Send(&wire.Frame{Kind: wire.Heartbeat, LSN: 1})
			step(t, l, func() bool { return y.w > y.r })
			if f, ok := y.Recv(); !ok || f.LSN != 1 {
				t.Error("the first frame is lost", ok)
			}
			sent, got := 0, 0
			for range 100 {
				if n := 600_000 + 1000*sent; x.Send(&wire.Frame{Kind: wire.Segment, LSN: uint64(sent), Body: body[:n]}) {
					sent++
				}
				turn()
			}
			y.r, y.used = len(y.in)-room, 0
			y.w = y.r
			for range 10 {
				if len(y.in)-y.w >= recvBytes { // Recv would arm then, and have nothing to move
					y.arm()
				}
				turn()
			}
			step(t, l, func() bool {
				for f, ok := y.Recv(); ok; f, ok = y.Recv() {
					if f.LSN != uint64(got) || !bytes.Equal(f.Body, body[:600_000+1000*got]) {
						t.Errorf("frame %d came as %d with %d bytes", got, f.LSN, len(f.Body))
					}
					got++
				}
				return got == sent || y.Err() != nil
			})
			if y.Err() != nil || sent < 2 {
				t.Errorf("room %d: %d sent, %d came: %v", room, sent, got, y.Err())
			}
		})
	}
}
