package wire

// TCP is what the kernel knows of a connection's socket, at one instant.
type TCP struct {
	RTTNanos          int64  `json:"round_trip_ns"`              // smoothed, of segments
	RTTVarNanos       int64  `json:"round_trip_deviation_ns"`    // from it, in the mean
	MinRTTNanos       int64  `json:"min_round_trip_ns"`          // of the last five minutes; 0: none was measured
	Retransmits       uint64 `json:"retransmits_total"`          // segments sent again since the connection was made
	Lost              uint32 `json:"lost_segments"`              // of those under way, taken for lost
	Unacked           uint32 `json:"unacked_segments"`           // under way
	Window            uint32 `json:"congestion_window_segments"` // how many may be
	SendQueueBytes    int64  `json:"send_queue_bytes"`           // given to the socket and not acknowledged
	NotSentBytes      int64  `json:"not_sent_bytes"`             // of them, not sent yet
	ReceiveQueueBytes int64  `json:"receive_queue_bytes"`        // arrived and not read
	DeliveryRate      uint64 `json:"delivery_bytes_per_second"`  // of the newest sample; 0: none was taken
}

// Sockets are those of the connections to a peer; nil: there is no such connection, or it is not known.
type Sockets struct {
	Data    *TCP `json:"data,omitempty"`
	Control *TCP `json:"control,omitempty"`
}

// Each calls f for what there is, by name; s may be nil.
func (s *Sockets) Each(f func(connection string, t *TCP)) {
	if s != nil && s.Data != nil {
		f("data", s.Data)
	}
	if s != nil && s.Control != nil {
		f("control", s.Control)
	}
}
