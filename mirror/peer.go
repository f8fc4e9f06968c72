package mirror

import "github.com/robib-ublk/robib/mirror/wire"

// Conn is one authenticated connection, as the loop sees it. No call blocks; loop only.
type Conn interface {
	// Send queues a copy of the frame; false: there is no room, try in the next Kick.
	Send(f *wire.Frame) bool
	// Recv gives the next frame, in the order sent. Its body is valid until the next Recv.
	Recv() (f wire.Frame, ok bool)
	// Err says why the connection is dead, or nil. What arrived before stays readable.
	Err() error
	// Close cuts it.
	Close() error
	// Peer names the other end.
	Peer() string
	// TCP is the state of its socket; false: there is none, or it is not known. It costs system calls.
	TCP() (t wire.TCP, ok bool)
}

// Network is how a Node meets its peer.
type Network interface {
	// Dial starts one attempt; a side that only listens does nothing.
	Dial()
	// Next gives a connection that was made or accepted, or an attempt's error, or nil, nil.
	Next() (Conn, error)
}
