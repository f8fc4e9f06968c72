package metrics

import (
	"time"

	"github.com/robib-ublk/robib/bpf"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk"
)

// Sample is the state of one volume at a moment. Whoever takes it gives it away.
type Sample struct {
	Node          mirror.Status
	HasPeer       bool
	Sockets       *wire.Sockets // to the peer
	DirtyBytes    int64
	OldestSeconds float64 // age of the oldest write that is not destaged
	DataLost      bool
	LogLost       bool
	Requests      *ublk.Counts  // nil: there is no block device here
	Latency       *bpf.Snapshot // nil: requests are not traced
	OwnStamps     bool          // it is the server's own account, without the kernel's part
	Traced        time.Time     // since when

	CertificateEnd *time.Time // of this machine's certificate by an authority; nil: it has none
}

// Source gives samples. Any goroutine may ask; an answer may take as long as the volume's loop is busy.
type Source interface {
	Sample() (*Sample, error)
}
