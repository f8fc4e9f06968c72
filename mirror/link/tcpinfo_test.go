package link

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/uring"
)

// state is that of a connection, which must be known.
func state(t *testing.T, c interface{ TCP() (wire.TCP, bool) }) wire.TCP {
	t.Helper()
	s, ok := c.TCP()
	if !ok || s.RTTNanos <= 0 || s.RTTNanos > 60e9 || s.Window == 0 || s.MinRTTNanos > s.RTTNanos+4*s.RTTVarNanos {
		t.Errorf("%+v, %v", s, ok)
	}
	return s
}

// What nobody reads waits in the socket of one end, and then in that of the other; what is dropped on
// its way is sent again.
func TestTCP(t *testing.T) {
	a, b := paired(t)
	onLoop(t, func(l *uring.Loop) {
		x, y, end := connect(t, l, a, b)
		if x == nil || y == nil {
			return
		}
		sent, got := uint64(0), uint64(0)
		frame := wire.Frame{Kind: wire.Segment, Body: make([]byte, wire.MaxBody)}
		send := func() bool {
			frame.LSN = sent
			ok := x.Send(&frame)
			if ok {
				sent++
			}
			return ok
		}
		read := func() bool {
			for f, ok := y.Recv(); ok; f, ok = y.Recv() {
				if f.LSN != got {
					t.Errorf("frame %d came as %d", got, f.LSN)
				}
				got++
			}
			return got == sent || x.Err() != nil || y.Err() != nil
		}
		step(t, l, func() bool { return !send() && state(t, y).ReceiveQueueBytes > 0 && state(t, x).NotSentBytes > 0 })
		if s := state(t, x); s.SendQueueBytes < s.NotSentBytes || s.ReceiveQueueBytes != 0 {
			t.Errorf("%+v", s)
		}
		step(t, l, read)
		step(t, l, func() bool { return state(t, x).SendQueueBytes == 0 })
		if p, q := state(t, x), state(t, y); p.Unacked+q.Unacked != 0 || q.ReceiveQueueBytes != 0 || p.DeliveryRate == 0 || p.MinRTTNanos == 0 {
			t.Errorf("at rest: %+v, %+v", p, q)
		}

		drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
		if err := unix.SetsockoptSockFprog(int(y.fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}); err != nil {
			t.Error(err)
		}
		before := state(t, x).Retransmits
		frame.Body = frame.Body[:512]
		send()
		step(t, l, func() bool { return state(t, x).Retransmits > before })
		if s := state(t, x); s.Unacked == 0 || s.SendQueueBytes == 0 || got == sent {
			t.Errorf("of what was lost: %+v, %d of %d came", s, got, sent)
		}
		if err := unix.SetsockoptInt(int(y.fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
			t.Error(err)
		}
		step(t, l, read)
		end()
		if s, ok := x.TCP(); ok {
			t.Errorf("of a closed connection: %+v", s)
		}
	})
}

func TestTCPIsNotKnown(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		c, fd := plainPair(t, l)
		if c == nil {
			return
		}
		if s, ok := c.TCP(); ok {
			t.Errorf("of another socket: %+v", s)
		}
		unix.Close(fd)
		c.Close()
		step(t, l, func() bool { return c.freed })
	})
}

// Both ends of a volume know their connections while there are any.
func TestSocketsOfNodes(t *testing.T) {
	onLoop(t, func(l *uring.Loop) {
		p := newNodePair(t, l, func(addr string) []string { return []string{addr} }, nil)
		defer p.close()
		if s := p.half[0].node.Sockets(); s != nil {
			t.Errorf("before there is a connection: %+v", s)
		}
		p.until("two connections", func() bool {
			for _, h := range p.half {
				if s := h.node.Sockets(); !p.inSync() || s == nil || s.Data == nil || s.Control == nil {
					return false
				}
			}
			return true
		})
		p.write(0, fill(make([]byte, 64<<10), 1))
		for _, h := range p.half {
			h.node.Sockets().Each(func(connection string, s *wire.TCP) {
				if s.RTTNanos <= 0 || s.Window == 0 {
					t.Errorf("%s: %+v", connection, s)
				}
			})
		}
	})
}
