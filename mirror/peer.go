package mirror

import "github.com/robib-ublk/robib/mirror/wire"

// Conn is one authenticated connection, as the loop sees it. No call blocks; loop only.
type Conn interface {
	// Send queues a copy of the frame; false: there is no room, try in the next Kick.
	Send(f *wire.Frame) bool
	// Recv gives the next frame, in the order sent. Its body is valid until the next Recv.
	Recv() (f wire.Frame, ok bool)
	// Received counts the bytes that came, also those of a frame that is not whole yet.
	Received() uint64
	// Acknowledged counts the bytes that the other machine has taken, and reports whether they are all
	// that was sent. It may cost a system call.
	Acknowledged() (bytes uint64, all bool)
	// Worn reports whether so much went over it that fresh keys are due: another connection should replace it.
	Worn() bool
	// Err says why the connection is dead, or nil. What arrived before stays readable.
	Err() error
	// Close cuts it.
	Close() error
	// Peer names the other end.
	Peer() string
	// Key is the fingerprint of the other end's key; "": it has none.
	Key() string
	// TCP is the state of its socket; false: there is none, or it is not known. It costs system calls.
	TCP() (t wire.TCP, ok bool)
}

// Network is how a Node meets its peer. Loop only; no call blocks.
type Network interface {
	// Dial starts one attempt; a side that only listens does nothing.
	Dial()
	// DialControl starts one attempt at a control connection, over the path that the newest connection
	// of Dial's took; a side that only listens does nothing.
	DialControl()
	// Paths is how many ways to the peer an attempt tries: one fails when all have; 0 on a side that only listens.
	Paths() int
	// Next gives a connection that was made or accepted, or an attempt's error, or nil, nil; control
	// says of which kind it is. The caller owns the connection.
	Next() (c Conn, control bool, err error)
}
