package link

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/uring"
)

// halfOpen is how many connections may be shaking hands at once; more are closed at once.
const halfOpen = 16

// arrivals are what goroutines bring to the loop.
type arrivals struct {
	loop *uring.Loop
	mu   sync.Mutex
	q    []made
	end  bool
	wg   sync.WaitGroup
}

// bring queues m for Next; after Close it is dropped.
func (a *arrivals) bring(m made) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.end {
		if m.err == nil {
			unix.Close(m.fd)
		}
		return
	}
	a.q = append(a.q, m)
	a.loop.Wake()
}

// next makes a connection of what came; loop only.
func (a *arrivals) next() (*Conn, error) {
	a.mu.Lock()
	if len(a.q) == 0 {
		a.mu.Unlock()
		return nil, nil
	}
	m := a.q[0]
	a.q = a.q[1:]
	a.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	var t sealer
	if m.tls != nil {
		t = m.tls
	}
	c, err := newConn(a.loop, m.fd, m.peer, t, m.mem)
	if err != nil {
		unix.Close(m.fd)
		return nil, err
	}
	c.addr = m.addr
	return c, nil
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
	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
	plain  bool
}

// NewListener listens at addr; plain: see Dialer.Plain.
func NewListener(l *uring.Loop, addr string, key *Key, trust *Trust, plain bool) (*Listener, error) {
	nl, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Listener{arrivals: arrivals{loop: l}, l: nl, plain: plain, key: key, trust: trust, tokens: tokens{now: time.Now}, slots: make(chan struct{}, halfOpen), open: map[net.Conn]bool{}}
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is where it listens.
func (s *Listener) Addr() net.Addr { return s.l.Addr() }

// Token makes a pairing token that is good once, for ttl.
func (s *Listener) Token(ttl time.Duration) (string, error) { return s.tokens.new(s.key, ttl) }

// Dial does nothing: the peer connects.
func (s *Listener) Dial() {}

// Next gives an accepted connection. Loop only.
func (s *Listener) Next() (*Conn, error) { return s.next() }

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
		select {
		case s.slots <- struct{}{}:
		default:
			c.Close() // too many are shaking hands
			continue
		}
		if !s.track(c, true) {
			<-s.slots
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			s.shake(c.(*net.TCPConn))
		})
	}
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
	t := tls.Server(m, config(s.key, []string{session(s.plain), protoPair}, func(fp string, st tls.ConnectionState) error {
		if st.NegotiatedProtocol == protoPair {
			if !s.tokens.valid(fp, false) {
				return ErrTokenUsed
			}
			return nil
		}
		return pinned(s.trust)(fp, st)
	}))
	if err := t.Handshake(); err != nil {
		// What is unread at the close would reset the connection, and the alert that says why
		// would be lost with it.
		tcp.CloseWrite()
		tcp.SetDeadline(time.Now().Add(time.Second))
		io.CopyN(io.Discard, tcp, lastBytes)
		tcp.Close()
		return
	}
	if t.ConnectionState().NegotiatedProtocol == protoPair {
		answerPair(t, &s.tokens, s.trust) // the client is told how it went
		tcp.Close()
		return
	}
	if c, err := handOver(tcp, t, m); err == nil {
		s.bring(c)
	}
}
