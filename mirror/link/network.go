package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

// halfOpen is how many connections may be shaking hands at once; more are closed at once. ownSlots more are
// kept for the machine that has shaken hands before: a data and a control connection.
const (
	halfOpen = 16
	ownSlots = 2
)

// arriving is how many connections wait for the loop; more are closed at once.
const arriving = 2 * ownSlots

// arrivals are what goroutines bring to the loop.
type arrivals struct {
	loop *uring.Loop
	mu   sync.Mutex
	q    []made
	end  bool
	wg   sync.WaitGroup
	only atomic.Pointer[string] // see Expect
}

// Expect lets only the machine in whose key's fingerprint is fp, of those that are trusted; "": any of them. It
// counts from the next handshake. Any goroutine.
func (a *arrivals) Expect(fp string) { a.only.Store(&fp) }

func (a *arrivals) expects(fp string) bool {
	only := a.only.Load()
	return only == nil || *only == "" || *only == fp
}

// pinned accepts the peer's key, or any that is trusted.
func (a *arrivals) pinned(t *Trust) func(string, tls.ConnectionState) error {
	trusted := pinned(t)
	return func(fp string, s tls.ConnectionState) error {
		if err := trusted(fp, s); err != nil {
			return err
		}
		if !a.expects(fp) {
			return fmt.Errorf("%w (%s)", ErrOtherPeer, fp)
		}
		return nil
	}
}

// bring queues m for Next; after Close it is dropped.
func (a *arrivals) bring(m made) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.end || m.err == nil && len(a.q) >= arriving {
		if m.err == nil {
			unix.Close(m.fd)
		}
		return
	}
	a.q = append(a.q, m)
	a.loop.Wake()
}

// next makes a connection of what came; loop only.
func (a *arrivals) next() (c *Conn, control bool, err error) {
	a.mu.Lock()
	for len(a.q) > 0 && a.q[0].err == nil && !a.expects(a.q[0].key) { // any more: it had shaken hands before
		unix.Close(a.q[0].fd)
		a.q = a.q[1:]
	}
	if len(a.q) == 0 {
		a.mu.Unlock()
		return nil, false, nil
	}
	m := a.q[0]
	a.q = a.q[1:]
	a.mu.Unlock()
	if m.err != nil {
		return nil, m.control, m.err
	}
	var t sealer
	if m.tls != nil {
		t = m.tls
	}
	size := &dataSizes
	if m.control {
		size = &controlSizes
	}
	if c, err = newConn(a.loop, m.fd, m.peer, t, m.mem, size); err != nil {
		unix.Close(m.fd)
		return nil, m.control, err
	}
	c.addr, c.key = m.addr, m.key
	return c, m.control, nil
}

func (a *arrivals) close() {
	a.mu.Lock()
	a.end = true
	for _, m := range a.q {
		if m.err == nil {
			unix.Close(m.fd)
		}
	}
	a.q = nil
	a.mu.Unlock()
}

// lastBytes is how much of a refused client's is read before it is cut.
const lastBytes = 64 << 10

// Listener is the end of a network that waits for the peer.
type Listener struct {
	arrivals
	l      net.Listener
	key    *Key
	trust  *Trust
	tokens tokens
	slots  chan struct{}
	own    chan struct{}
	mu     sync.Mutex
	open   map[net.Conn]bool
	known  string // the host that has shaken hands last
	closed bool
	plain  bool
	paired func(fp string)
	alarm  func(host string, err error)
}

// NewListener listens at addr; plain: see Dialer.Plain.
func NewListener(l *uring.Loop, addr string, key *Key, trust *Trust, plain bool) (*Listener, error) {
	nl, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Listener{arrivals: arrivals{loop: l}, l: nl, plain: plain, key: key, trust: trust, tokens: tokens{now: time.Now}, slots: make(chan struct{}, halfOpen), own: make(chan struct{}, ownSlots), open: map[net.Conn]bool{}}
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is where it listens.
func (s *Listener) Addr() net.Addr { return s.l.Addr() }

// Token makes a pairing token that is good once, for ttl.
func (s *Listener) Token(ttl time.Duration) (string, error) { return s.tokens.new(s.key, ttl) }

// Paired has f told of each key that was paired, before the other end is told: it is the one that is expected
// from then on. f may be called by any goroutine, and block.
func (s *Listener) Paired(f func(fp string)) {
	s.mu.Lock()
	s.paired = f
	s.mu.Unlock()
}

// Alarm has f told of each machine that was refused because its certificate's time is over, or has not come. f may be
// called by any goroutine, as often as somebody connects, and block.
func (s *Listener) Alarm(f func(host string, err error)) {
	s.mu.Lock()
	s.alarm = f
	s.mu.Unlock()
}

// pair answers whoever has a token; the client is told how it went.
func (s *Listener) pair(t *tls.Conn) {
	answerPair(t, &s.tokens, s.trust, func(fp string) {
		s.Expect(fp)
		s.mu.Lock()
		f := s.paired
		s.mu.Unlock()
		if f != nil {
			f(fp)
		}
	})
}

// Dial does nothing: the peer connects.
func (s *Listener) Dial() {}

// DialControl does nothing either.
func (s *Listener) DialControl() {}

// Paths is none: the peer knows its own.
func (s *Listener) Paths() int { return 0 }

// Next gives an accepted connection, and says of which kind it is. Loop only.
func (s *Listener) Next() (c *Conn, control bool, err error) { return s.next() }

// Close ends listening, and handshakes under way, and waits for them.
func (s *Listener) Close() error {
	err := s.l.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.arrivals.close()
	s.wg.Wait()
	return err
}

func (s *Listener) accept() {
	for {
		c, err := s.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, say: it passes, and must not spin.
			t := time.NewTimer(100 * time.Millisecond)
			<-t.C
			continue
		}
		slots := s.slot(c)
		if slots == nil {
			c.Close() // too many are shaking hands
			continue
		}
		if !s.track(c, true) {
			<-slots
			continue
		}
		s.wg.Go(func() {
			defer func() { <-slots }()
			s.shake(c.(*net.TCPConn))
		})
	}
}

// slot takes a place for a handshake; nil: there is none.
func (s *Listener) slot(c net.Conn) chan struct{} {
	select {
	case s.slots <- struct{}{}:
		return s.slots
	default:
	}
	s.mu.Lock()
	known := s.known == host(c)
	s.mu.Unlock()
	if known {
		select {
		case s.own <- struct{}{}:
			return s.own
		default:
		}
	}
	return nil
}

func host(c net.Conn) string {
	h, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return h
}

func (s *Listener) track(c net.Conn, on bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	if on {
		s.open[c] = true
	} else {
		delete(s.open, c)
	}
	return true
}

// shake authenticates one connection; nothing but TLS is parsed before that is done.
func (s *Listener) shake(tcp *net.TCPConn) {
	defer s.track(tcp, false)
	tune(tcp)
	tcp.SetDeadline(time.Now().Add(handshakeLimit))
	m := &memConn{Conn: tcp}
	t := tls.Server(m, config(s.key, []string{session(s.plain), protoControl, protoPair}, func(fp string, st tls.ConnectionState) error {
		if st.NegotiatedProtocol == protoPair {
			if !s.tokens.valid(fp, false) {
				return ErrTokenUsed
			}
			return nil
		}
		return s.pinned(s.trust)(fp, st)
	}))
	if err := t.Handshake(); err != nil {
		s.mu.Lock()
		f := s.alarm
		s.mu.Unlock()
		if f != nil && errors.Is(err, ErrExpired) {
			f(host(tcp), err)
		}
		// What is unread at the close would reset the connection, and the alert that says why
		// would be lost with it.
		tcp.CloseWrite()
		tcp.SetDeadline(time.Now().Add(time.Second))
		io.CopyN(io.Discard, tcp, lastBytes)
		tcp.Close()
		return
	}
	if t.ConnectionState().NegotiatedProtocol == protoPair {
		s.pair(t)
		tcp.Close()
		return
	}
	s.mu.Lock()
	s.known = host(tcp)
	s.mu.Unlock()
	if c, err := handOver(tcp, t, m); err == nil {
		s.bring(c)
	}
}
