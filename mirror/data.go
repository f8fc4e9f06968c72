package mirror

import "github.com/robib-ublk/robib/mirror/wire"

// sendData sends a frame of the volume's data: packed as the peer understands it, and paid for.
// key names the body within the session, blocks of zeros are looked for from first on. False:
// there is no room now.
func (n *Node) sendData(f *wire.Frame, key wire.PackKey, first int) bool {
	raw := len(f.Body)
	n.pack.Pack(f, key, first)
	if f.Kind == wire.Segment && n.pack.OwnSums() {
		f.Flags |= wire.FlagOwnSum
	}
	if !n.s.conn.Send(f) {
		return false
	}
	n.sentData(f, raw)
	return true
}

// sentData accounts for a frame that was sent and stands for raw bytes of body.
func (n *Node) sentData(f *wire.Frame, raw int) {
	n.pace.spend(n.now.Mono, f)
	n.rawBytes += uint64(wire.HeadBytes + raw)
}

// SetCompress makes data be compressed with Zstandard on the way to a peer that can take it.
func (n *Node) SetCompress(on bool) error { return n.pack.SetZstd(on) }
