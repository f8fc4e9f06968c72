package blk

// Null is a device that does nothing at once: the price of the road to it. Reads leave Buf as it is.
type Null struct{ SizeBytes int64 }

// Info of a disk with 512-byte logical and 4-KiB physical blocks.
func (n *Null) Info() Info {
	return Info{SizeBytes: n.SizeBytes, LogicalBytes: 512, PhysicalBytes: 4096, Identity: "null"}
}

// Submit completes r inline.
func (n *Null) Submit(r *Request) { r.Err = 0; r.Owner.Complete(r) }

// Kick has nothing to do.
func (n *Null) Kick(Instant) int64 { return Never }

// Close has nothing to close.
func (n *Null) Close() error { return nil }
