package latency

import (
	"fmt"
	"io"

	"github.com/robib-ublk/robib/mirror/wire"
)

// showSocket prints the state of a socket to the peer.
func showSocket(w io.Writer, connection string, t *wire.TCP) {
	least := "not known"
	if t.MinRTTNanos > 0 {
		least = Nanos(float64(t.MinRTTNanos))
	}
	fmt.Fprintf(w, "network, %s connection: TCP round trip %s ±%s, least %s\n", connection, Nanos(float64(t.RTTNanos)), Nanos(float64(t.RTTVarNanos)), least)
	fmt.Fprintf(w, "\tsegments  %d of at most %d under way, %d lost; %d sent again since it was connected\n", t.Unacked, t.Window, t.Lost, t.Retransmits)
	fmt.Fprintf(w, "\tbytes     %d not acknowledged, %d of them not sent, %d not read; %.1f MB/s delivered\n", t.SendQueueBytes, t.NotSentBytes, t.ReceiveQueueBytes, float64(t.DeliveryRate)/1e6)
}
