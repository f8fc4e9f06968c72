package blk

// Op is what a request asks for.
type Op uint8

// Operations, in the order of ublk's own (include/uapi/linux/ublk_cmd.h).
const (
	Read Op = iota
	Write
	Flush
	Discard
	WriteZeroes
	Ops // how many there are
)

func (o Op) String() string {
	switch o {
	case Read:
		return "read"
	case Write:
		return "write"
	case Flush:
		return "flush"
	case Discard:
		return "discard"
	case WriteZeroes:
		return "write-zeroes"
	}
	return "unknown"
}

// Flags modify an operation.
type Flags uint8

const (
	FUA     Flags = 1 << iota // complete only when durable
	NoUnmap                   // write-zeroes keeps the space allocated
)

// Stage is a point that a request passes; Stamps is indexed by it.
type Stage uint8

const (
	Pickup Stage = iota
	Begun        // no queue of the server's holds it any more
	LogDone
	DataDone
	PeerSent
	PeerAcked
	Committed
	Stages
)

// Info describes a device. It is constant while the device is open, but for SizeBytes, which may grow.
type Info struct {
	SizeBytes     int64
	LogicalBytes  int32 // smallest request and alignment
	PhysicalBytes int32 // smallest write that costs no read
	Rotational    bool
	VolatileCache bool // Flush is needed before a write without FUA is durable
	Discard       bool // Discard is offered
	WriteZeroes   bool // WriteZeroes is offered
	ReadOnly      bool
	Zoned         bool
	Identity      string // serial or WWN; "" unknown
}

// Stamp records that r passed s at now, where r is traced.
func (r *Request) Stamp(s Stage, now Instant) {
	if r.Stamps != nil {
		r.Stamps[s] = now.Mono
	}
}

// Queue is an intrusive FIFO of requests linked by Next. The zero value is empty.
type Queue struct {
	head, tail *Request
	n          int
}

// Push appends r, which must be in no other queue.
func (q *Queue) Push(r *Request) {
	r.Next = nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.Next = r
	}
	q.tail = r
	q.n++
}

// Head is the first request, still queued, or nil.
func (q *Queue) Head() *Request { return q.head }

// Len counts the queued requests.
func (q *Queue) Len() int { return q.n }

// Pop takes the first request, or nil.
func (q *Queue) Pop() *Request {
	r := q.head
	if r != nil {
		if q.head = r.Next; q.head == nil {
			q.tail = nil
		}
		r.Next = nil
		q.n--
	}
	return r
}
