package volume

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/cmd/internal/control"
	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
)

// Status is what `robib-ublk status` shows of one volume; the JSON keys carry the units.
type Status struct {
	Name            string  `json:"name"`
	Role            string  `json:"role"`
	State           string  `json:"state"`
	Reason          string  `json:"reason,omitempty"`
	Degraded        bool    `json:"degraded"`
	Inconsistent    bool    `json:"inconsistent"`
	Device          string  `json:"device,omitempty"`
	DeviceID        int     `json:"device_id"`
	ServerPID       int     `json:"server_pid"`
	Disk            string  `json:"disk"`
	DiskBytes       int64   `json:"disk_bytes"`
	Log             string  `json:"log"`
	LogBytes        int64   `json:"log_bytes"`
	LogUsedBytes    int64   `json:"log_used_bytes"`
	DirtyBytes      int64   `json:"dirty_bytes"`
	Volume          string  `json:"volume_uuid"`
	Term            uint64  `json:"term"`
	Marks           string  `json:"marks"`
	Mode            string  `json:"mode"`
	OnDisconnect    string  `json:"on_disconnect"`
	Encrypted       bool    `json:"encrypted"`
	Remote          string  `json:"remote,omitempty"`
	RemoteInUse     string  `json:"remote_in_use,omitempty"` // which of remote's addresses the session goes over
	Peer            string  `json:"peer_address,omitempty"`  // the other end's address and port
	Listen          string  `json:"listen,omitempty"`
	PeerKey         string  `json:"peer_key,omitempty"` // the one that the peer must have; "": any that is trusted
	Connected       bool    `json:"connected"`
	LastError       string  `json:"last_error,omitempty"`
	Control         bool    `json:"control_connected"`
	ControlReason   string  `json:"control_reason,omitempty"` // why it is not, while connected
	Sealed          uint64  `json:"sealed_lsn"`
	Durable         uint64  `json:"durable_lsn"`
	Destaged        uint64  `json:"destaged_lsn"`
	Shipped         uint64  `json:"shipped_lsn"`
	Received        uint64  `json:"received_lsn"`
	RemoteDurable   uint64  `json:"remote_durable_lsn"`
	LagSegments     uint64  `json:"lag_segments"`
	RoundTripMicros float64 `json:"round_trip_us"` // of the newest heartbeat, through both loops
	SinceSeconds    float64 `json:"session_since_s"`
	SyncPercent     float64 `json:"full_sync_percent"`
	SyncKind        string  `json:"sync_kind,omitempty"` // of the sync under way: in place, or staged
	PeerReads       uint64  `json:"peer_reads_total"`
	DamagedReads    uint64  `json:"log_damaged_reads_total"`
	Mended          uint64  `json:"disk_mended_ranges_total"`
	Reads           uint64  `json:"reads_total"`
	Writes          uint64  `json:"writes_total"`
	WrittenBytes    uint64  `json:"written_bytes_total"`
	DestagedBytes   uint64  `json:"destaged_bytes_total"`
	SupersededBytes uint64  `json:"superseded_bytes_total"`
	Commits         uint64  `json:"commits_total"`
	CommitsPerS     float64 `json:"commits_per_s"` // since the status before, of a second or more ago; at first since the server started
	Throttled       uint64  `json:"throttled_total"`
	LogReadBytes    uint64  `json:"log_read_bytes_total"`

	OccupancyPercent float64 `json:"log_occupancy_percent"`
	LowWater         int     `json:"low_water_percent"`
	HighWater        int     `json:"high_water_percent"`
	Ordered          bool    `json:"ordered"`
	WriteCache       bool    `json:"write_cache"`

	BypassBytes      int64    `json:"bypass_bytes"` // of a sequential run; 0: never
	Bypassed         uint64   `json:"bypassed_total"`
	BypassedBytes    uint64   `json:"bypassed_bytes_total"`
	QueueRequests    []uint64 `json:"queue_requests_total,omitempty"` // by hardware queue
	RAMBytes         int64    `json:"ram_bytes"`
	MapBytes         int64    `json:"map_bytes"`
	MapEntries       int      `json:"map_entries"`
	FreedPerSecond   float64  `json:"log_freed_bytes_per_second"`
	EmptySeconds     float64  `json:"time_to_empty_s"`
	OldestSeconds    float64  `json:"oldest_dirty_age_s"`
	GatherSize       float64  `json:"requests_per_commit"`
	CommitMicros     float64  `json:"commit_us"`
	BatchBlocks      int      `json:"destage_batch_blocks"`
	DestageBatches   uint64   `json:"destage_batches_total"`
	WriteReduction   float64  `json:"write_reduction_percent"`
	Discards         uint64   `json:"discards_total"`
	WriteZeroes      uint64   `json:"write_zeroes_total"`
	ZeroedBytes      uint64   `json:"zeroed_bytes_total"`
	ZeroExtents      int      `json:"zero_extents"`
	ZeroPending      int64    `json:"zero_pending_bytes"`
	ReadRAM          uint64   `json:"read_ram_total"`
	ReadLog          uint64   `json:"read_log_total"`
	ReadDisk         uint64   `json:"read_disk_total"`
	ReadZero         uint64   `json:"read_zero_total"`
	HitPercent       float64  `json:"read_hit_percent"`
	UptimeSeconds    float64  `json:"uptime_s"`
	Latency          string   `json:"latency,omitempty"` // "traced", or why there are no probes, only the server's own stamps, or not even they
	Metrics          string   `json:"metrics,omitempty"` // where they are served, or why they are not
	HeartbeatSeconds float64  `json:"heartbeat_s"`
	PeerDeadSeconds  float64  `json:"peer_dead_s"`
	Limits           Limits   `json:"limits"`
	CatchUpReason    string   `json:"catch_up_reason,omitempty"` // "": the peer is level, or lacks only what is under way
	BacklogBytes     int64    `json:"backlog_bytes"`             // that the peer lacks, of log and of a sync
	BacklogSeconds   float64  `json:"backlog_s"`                 // age of the oldest of it
	ShipRate         float64  `json:"ship_bytes_per_second"`
	WriteRate        float64  `json:"write_bytes_per_second"`   // of log
	CatchUpSeconds   *float64 `json:"catch_up_eta_s,omitempty"` // not there: not known, or never at these rates
	CannotKeepUp     bool     `json:"cannot_keep_up"`
	RefillBytes      int64    `json:"refilled_bytes"`              // of a new data disk
	RefillTotal      int64    `json:"refill_bytes"`                // 0: none is being filled
	Paused           []string `json:"paused"`                      // by the user: destage, resync, link
	ResyncSent       uint64   `json:"resync_sent_bytes_total"`     // by full and map syncs since this server's start
	ResyncCompared   uint64   `json:"resync_compared_bytes_total"` // with the peer's, by hash
	ResyncSkipped    uint64   `json:"resync_skipped_bytes_total"`  // equal, and not sent
	RateLimit        int64    `json:"rate_limit_bytes_per_second"` // 0: none
	SentBytes        uint64   `json:"sent_data_bytes_total"`
	RawBytes         uint64   `json:"sent_data_raw_bytes_total"` // what it stands for
	ElidedBytes      uint64   `json:"elided_zero_bytes_total"`   // blocks of zeros left out of it
	Compress         string   `json:"compress"`                  // off or zstd, as set
	Compressing      bool     `json:"compressing"`               // and the peer can take it
	CompressTried    uint64   `json:"compress_tried_total"`      // frames
	CompressShrunk   uint64   `json:"compress_shrunk_total"`     // of them, sent compressed
	CompressSkipped  uint64   `json:"compress_not_tried_total"`  // after too many that did not shrink

	Network *wire.Sockets `json:"network,omitempty"` // to the peer

	CertificateEnd *time.Time `json:"certificate_until,omitempty"` // of this machine's, where an authority has signed one
}

// Status asks the loop.
func (s *Server) Status() (any, error) {
	var st mirror.Status
	var dirty int64
	var using string
	var queues []uint64
	var sockets *wire.Sockets
	var net *network
	if err := s.stack.call(func() {
		st, dirty, sockets = s.stack.node.Status(), s.stack.cache.Dirty(), s.stack.node.Sockets()
		if s.stack.queue != nil {
			queues = s.stack.queue.Served()
		}
		if net = s.stack.net; net != nil && st.Connected {
			using = net.using
		}
	}); err != nil {
		return nil, err
	}
	c := s.conf()
	v := Status{Name: c.Name, Role: string(c.Role), State: st.State, Reason: st.Reason, Degraded: st.Degraded(), Inconsistent: st.Inconsistent(), DeviceID: -1, ServerPID: os.Getpid(),
		Disk: c.Disk, DiskBytes: c.DiskBytes, Log: c.Log, LogBytes: c.LogBytes, LogUsedBytes: st.Cache.LogUsed, DirtyBytes: dirty, Volume: st.Volume.String(), Term: st.Term.Number,
		Marks: st.Marks.String(), Mode: st.Mode.String(), OnDisconnect: st.OnDisconnect.String(), Encrypted: !c.Plain, Remote: c.Remote, RemoteInUse: using, Peer: st.Peer, Listen: c.Listen, PeerKey: c.PeerKey, Connected: st.Connected, LastError: st.LastError, Control: st.Control, ControlReason: st.ControlWhy,
		Sealed: st.Sealed, Durable: st.Durable, Destaged: st.Destaged, Shipped: st.Shipped, Received: st.Received, RemoteDurable: st.RemoteDurable, LagSegments: st.LagSegments,
		RoundTripMicros: float64(st.RoundTripNanos) / 1e3, SinceSeconds: float64(st.SinceNanos) / 1e9, PeerReads: st.PeerReads,
		Reads: st.Cache.Reads, Writes: st.Cache.Writes, WrittenBytes: st.Cache.WrittenBytes, DestagedBytes: st.Cache.DestagedBytes, SupersededBytes: st.Cache.SupersededBytes,
		Commits: st.Cache.Commits, Throttled: st.Cache.Throttled, LogReadBytes: st.Cache.LogReadBytes, UptimeSeconds: time.Since(s.begun).Seconds(),
		HeartbeatSeconds: float64(st.HeartbeatNanos) / 1e9, PeerDeadSeconds: float64(st.PeerDeadNanos) / 1e9, Limits: limits(&st),
		RateLimit: st.RateLimit, SentBytes: st.SentBytes, RawBytes: st.RawBytes, ElidedBytes: st.Pack.ElidedBytes,
		Compress: "off", Compressing: st.Compressing, CompressTried: st.Pack.Tried, CompressShrunk: st.Pack.Shrunk, CompressSkipped: st.Pack.Skipped}
	if st.Compress {
		v.Compress = "zstd"
	}
	v.cache(&st.Cache)
	v.CommitsPerS = s.commits.since(time.Now(), st.Cache.Commits, s.begun)
	v.QueueRequests, v.Network = queues, sockets
	v.SyncKind = st.SyncKind
	if st.SyncTotal > 0 {
		v.SyncPercent = float64(st.SyncDone) * 100 / float64(st.SyncTotal)
	}
	v.ResyncSent, v.ResyncCompared, v.ResyncSkipped = st.Resync.Sent, st.Resync.Compared, st.Resync.Skipped
	v.RefillBytes, v.RefillTotal = st.RefillDone, st.RefillTotal
	v.catchUp(&st.CatchUp)
	v.CertificateEnd = net.certificateEnd()
	v.Latency, v.Metrics = s.traced(), s.exports.status()
	v.Paused = s.conf().paused()
	if s.live {
		v.Device, v.DeviceID = s.dev.Path(), s.dev.ID()
	}
	return v, nil
}

// catchUp fills in how far the peer is behind.
func (v *Status) catchUp(c *mirror.CatchUp) {
	v.CatchUpReason, v.BacklogBytes, v.BacklogSeconds, v.CannotKeepUp = c.Why, c.BacklogBytes, float64(c.BacklogNanos)/1e9, c.CannotKeepUp
	v.ShipRate, v.WriteRate = c.ShipRate, c.WriteRate
	if c.EtaNanos >= 0 {
		eta := float64(c.EtaNanos) / 1e9
		v.CatchUpSeconds = &eta
	}
}

// oldest is the age of the oldest write that is not destaged, s; 0: there is none.
func oldest(s *dcd.Status, dirty int64) float64 {
	if s.OldestNanos == 0 || dirty == 0 {
		return 0
	}
	return max(float64(time.Now().UnixNano()-s.OldestNanos)/1e9, 0)
}

// often is how often something happens a second.
type often struct {
	mu   sync.Mutex
	at   time.Time
	n    uint64
	rate float64
}

// since tells it of the time since the call before, one of at least a second ago; n is how often it has
// happened since begun, all in all.
func (o *often) since(now time.Time, n uint64, begun time.Time) float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.at.IsZero() {
		o.at = begun
	}
	if d := now.Sub(o.at).Seconds(); d >= 1 {
		o.rate, o.at, o.n = float64(n-o.n)/d, now, n
	}
	return o.rate
}

// cache fills in what the cache says of itself.
func (v *Status) cache(s *dcd.Status) {
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	v.OccupancyPercent = ratio(float64(s.LogUsed)*100, float64(s.LogBytes))
	v.LowWater, v.HighWater, v.Ordered, v.RAMBytes, v.MapBytes, v.MapEntries = s.LowWater, s.HighWater, s.Ordered, s.RAMBytes, s.MapBytes, s.DirtyBlocks
	v.WriteCache = s.WriteCache
	v.BypassBytes, v.Bypassed, v.BypassedBytes = s.Bypass, s.Bypassed, s.BypassedBytes
	v.FreedPerSecond, v.EmptySeconds = s.FreedBytesPerSecond, ratio(float64(s.LogUsed), s.FreedBytesPerSecond)
	v.OldestSeconds = oldest(s, v.DirtyBytes)
	v.GatherSize, v.CommitMicros = ratio(float64(s.Writes+s.Discards+s.Zeroes), float64(s.Commits)), float64(s.CommitNanos)/1e3
	v.BatchBlocks, v.DestageBatches = s.BatchBlocks, s.DestageBatches
	v.WriteReduction = ratio(float64(s.SupersededBytes)*100, float64(s.SupersededBytes+s.DestagedBytes))
	v.Discards, v.WriteZeroes, v.ZeroedBytes, v.ZeroExtents, v.ZeroPending = s.Discards, s.Zeroes, s.ZeroedBytes, s.ZeroExtents, s.ZeroBytes
	v.ReadRAM, v.ReadLog, v.ReadDisk, v.ReadZero = s.ReadRAM, s.ReadLog, s.ReadData, s.ReadZero
	v.DamagedReads, v.Mended = s.Rotten, s.Mended
	hits := float64(s.ReadRAM + s.ReadLog + s.ReadZero)
	v.HitPercent = ratio(hits*100, hits+float64(s.ReadData+s.ReadPeer))
}

// Stopped is the status of a volume whose server does not run. What its log says of it is told, where
// the log can be read.
func Stopped(c *Config) Status {
	v := Status{Name: c.Name, Role: string(c.Role), State: "stopped", Reason: fmt.Sprintf("`robib-ublk %s --name %s` starts it", verb(c.Role), c.Name), DeviceID: -1, Disk: c.Disk, DiskBytes: c.DiskBytes,
		Log: c.Log, LogBytes: c.LogBytes, Volume: c.Volume, Mode: c.Mode, Remote: c.Remote, Listen: c.Listen}
	found := make(chan *seglog.Super, 1)
	go func() {
		s, err := readSuper(c.Log)
		if err != nil || s.Log.String() != c.LogID {
			found <- nil
			return
		}
		found <- &s
	}()
	select {
	case s := <-found:
		if s == nil {
			break
		}
		st := mirror.Status{Primary: c.Role == Primary, Marks: s.Marks}
		v.Term, v.Marks, v.Inconsistent = s.Term.Number, s.Marks.String(), st.Inconsistent()
		if v.Inconsistent {
			v.Reason = "inconsistent: a sync did not finish, and promote refuses; " + v.Reason
		}
	case <-time.After(stoppedWait):
	}
	return v
}

// stoppedWait bounds the reading of a stopped volume's log.
const stoppedWait = 3 * time.Second

// describeLog says what the log is and what its loss would cost.
func (s *Server) describeLog() []string {
	c := s.conf()
	cost := "if it is lost, what is not destaged yet is lost with it"
	if c.Remote != "" || c.Listen != "" {
		cost = "if it is lost, the peer stands in for it while it is in sync"
	}
	lines := []string{fmt.Sprintf("log %s, %s: %s", c.Log, Bytes(c.LogBytes), cost)}
	if s.o.In.Disk != nil && s.o.In.Log != nil && sameDevice(s.o.In.Disk, s.o.In.Log) {
		lines = append(lines, fmt.Sprintf("warning: log and disk %s share one device: each write goes there twice, and one failure takes both", c.Disk))
	}
	return lines
}

// sameDevice reports whether two opened disks or files lie on one block device.
func sameDevice(a, b *os.File) bool {
	dev := func(f *os.File) uint64 {
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) != nil {
			return 0
		}
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			return st.Rdev
		}
		return st.Dev
	}
	x := dev(a)
	return x != 0 && x == dev(b)
}

// describeReplication says where the second copy is and what each write waits for.
func (s *Server) describeReplication() string {
	c := s.conf()
	if c.Remote == "" && c.Listen == "" {
		return "no second copy: --remote names a machine that runs `robib-ublk serve`"
	}
	var st mirror.Status
	if s.stack.call(func() { st = s.stack.node.Status() }) != nil {
		return ""
	}
	to := c.Remote
	if to == "" {
		to = "the peer that connects to " + c.Listen
	}
	wait := "writes do not wait for it (async)"
	if st.Mode == mirror.Sync {
		wait = "each write waits for it (sync)"
	}
	rtt := "round trip not measured yet"
	if st.RoundTripNanos > 0 {
		rtt = fmt.Sprintf("round trip %.2f ms", float64(st.RoundTripNanos)/1e6)
	}
	line := fmt.Sprintf("replication: this machine → %s, %s, %s; now %s", to, rtt, wait, st.State)
	if st.State == mirror.StateWaiting {
		line += fmt.Sprintf(": I/O waits until it was asked whether it was promoted (`robib-ublk recover %s --start-alone` serves without)", c.Name)
	}
	return line
}

var _ control.Handler = (*Server)(nil)

// paused names what the user made stand still.
func (c *Config) paused() []string {
	list := []string{}
	for what, on := range map[string]bool{"destage": c.NoDestage, "resync": c.NoResync, "link": c.Apart} {
		if on {
			list = append(list, what)
		}
	}
	slices.Sort(list)
	return list
}
