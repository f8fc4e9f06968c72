package link

import (
	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/mirror/wire"
)

// TCP asks the kernel for the state of the connection's socket: three system calls. It reports
// false of a closed connection, and of a socket that is not TCP. Loop only.
func (c *Conn) TCP() (t wire.TCP, ok bool) {
	if c.closed {
		return t, false
	}
	fd := int(c.fd)
	i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return t, false
	}
	const never = ^uint32(0) // of min_rtt: no round trip was measured
	t = wire.TCP{RTTNanos: int64(i.Rtt) * 1000, RTTVarNanos: int64(i.Rttvar) * 1000, Retransmits: uint64(i.Total_retrans), Lost: i.Lost,
		Unacked: i.Unacked, Window: i.Snd_cwnd, NotSentBytes: int64(i.Notsent_bytes), DeliveryRate: i.Delivery_rate}
	if i.Min_rtt != never {
		t.MinRTTNanos = int64(i.Min_rtt) * 1000
	}
	out, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return wire.TCP{}, false
	}
	in, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return wire.TCP{}, false
	}
	t.SendQueueBytes, t.ReceiveQueueBytes = int64(out), int64(in)
	return t, true
}
