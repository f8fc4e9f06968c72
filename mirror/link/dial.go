package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/robib-ublk/robib/uring"
)

// ConnectLimit bounds how long one address may take to accept a connection, and then its handshake.
const ConnectLimit = 10 * time.Second

// headStart is how long an address that does not answer holds up the next one (RFC 8305 waits
// 250 ms between addresses of one name; these are paths, the first of which is preferred).
const headStart = time.Second

// Dialer is the end of a network that connects. The peer may have several addresses.
type Dialer struct {
	arrivals
	addrs  []string // guarded by mu; the last good one is first
	path   string   // the other end of the newest connection that Next gave; loop only
	key    *Key
	trust  *Trust
	plain  bool
	ctx    context.Context
	cancel context.CancelFunc
}

// Plain makes sessions go on without encryption after the handshake, which still proves both
// keys; the other end must want the same. Before the first Dial.
func (d *Dialer) Plain(on bool) { d.plain = on }

// NewDialer connects to the first of addrs that works; their names are looked up anew at each attempt.
func NewDialer(l *uring.Loop, addrs []string, key *Key, trust *Trust) *Dialer {
	d := &Dialer{arrivals: arrivals{loop: l}, key: key, trust: trust}
	d.SetAddresses(addrs)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// SetAddresses is what the next attempt tries. Any goroutine.
func (d *Dialer) SetAddresses(addrs []string) {
	d.mu.Lock()
	d.addrs = slices.Clone(addrs)
	d.mu.Unlock()
}

// Paths is how many addresses there are.
func (d *Dialer) Paths() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.addrs)
}

// Dial starts one attempt, which tries every address; Next brings its end.
func (d *Dialer) Dial() {
	d.wg.Go(func() {
		m, err := d.attempt()
		if err != nil {
			m = made{err: err}
		}
		d.bring(m)
	})
}

// DialControl starts one attempt at a control connection beside the newest connection that Next gave, to
// the same end of it. Loop only.
func (d *Dialer) DialControl() {
	path := d.path
	d.wg.Go(func() {
		m, err := d.connect([]string{path}, protoControl)
		if err != nil {
			m = made{err: err}
		}
		m.addr, m.control = path, true
		d.bring(m)
	})
}

// errMoved says that a control connection was made over a path that the session has left.
var errMoved = errors.New("the session goes over another path now")

func (d *Dialer) attempt() (m made, err error) {
	d.mu.Lock()
	addrs := slices.Clone(d.addrs)
	d.mu.Unlock()
	m, err = d.connect(addrs, session(d.plain))
	if err == nil {
		d.prefer(m.addr)
	}
	return m, err
}

// connect makes a connection to the first of addrs that works.
func (d *Dialer) connect(addrs []string, proto string) (m made, err error) {
	err = dialAny(d.ctx, addrs, func(addr string, tcp *net.TCPConn) (err error) {
		m, err = d.shake(tcp, proto)
		m.addr = addr
		return err
	})
	return m, err
}

// prefer makes the next attempt begin with addr.
func (d *Dialer) prefer(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.addrs, addr); i > 0 {
		d.addrs = append([]string{addr}, slices.Delete(d.addrs, i, i+1)...)
	}
}

// shake authenticates both ends and takes the socket over.
func (d *Dialer) shake(tcp *net.TCPConn, proto string) (made, error) {
	tune(tcp)
	tcp.SetDeadline(time.Now().Add(handshakeLimit))
	m := &memConn{Conn: tcp}
	t := tls.Client(m, config(d.key, []string{proto}, d.pinned(d.trust)))
	if err := t.HandshakeContext(d.ctx); err != nil {
		tcp.Close()
		// crypto/tls gives a peer's alert as an unexported type: its text (RFC 7301, alert 120) tells.
		if proto != protoControl && strings.Contains(err.Error(), "no application protocol") {
			err = ErrEncryption
		}
		return made{}, err
	}
	return handOver(tcp, t, m)
}

// Next gives what an attempt came to; control says of which kind it was. Loop only.
func (d *Dialer) Next() (c *Conn, control bool, err error) {
	c, control, err = d.next()
	switch {
	case c == nil:
	case !control:
		d.path = c.peer
	case c.addr != d.path:
		return nil, true, errors.Join(errMoved, c.Close())
	}
	return c, control, err
}

// Close ends attempts under way and waits for them.
func (d *Dialer) Close() error {
	d.cancel()
	d.arrivals.close()
	d.wg.Wait()
	return nil
}

// dialAny connects to addrs in turn and gives each connection to use, until that returns nil.
// The next address is tried when one fails, and beside one that is silent for headStart. use owns
// the connection. The error says what was wrong with each address.
func dialAny(ctx context.Context, addrs []string, use func(addr string, c *net.TCPConn) error) error {
	type end struct {
		i   int
		c   net.Conn
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	ends := make(chan end)
	started, failed := 0, make([]error, len(addrs))
	running := 0
	next := func() {
		i := started
		started++
		running++
		go func() {
			d := net.Dialer{Timeout: ConnectLimit}
			c, err := d.DialContext(ctx, "tcp", addrs[i])
			ends <- end{i, c, err}
		}()
	}
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if e := <-ends; e.c != nil {
				e.c.Close()
			}
		}
	}()
	tick := time.NewTimer(headStart)
	defer tick.Stop()
	for started < len(addrs) || running > 0 {
		if running == 0 {
			next()
			tick.Reset(headStart)
		}
		select {
		case e := <-ends:
			running--
			if e.err == nil {
				if e.err = use(addrs[e.i], e.c.(*net.TCPConn)); e.err == nil {
					return nil
				}
			}
			failed[e.i] = e.err
			if started < len(addrs) && ctx.Err() == nil {
				next()
				tick.Reset(headStart)
			}
		case <-tick.C:
			if started < len(addrs) {
				next()
				tick.Reset(headStart)
			}
		}
		if err := ctx.Err(); err != nil && running == 0 {
			return err
		}
	}
	return allFailed(addrs, failed)
}

// allFailed says in one line what was wrong with each address.
func allFailed(addrs []string, errs []error) error {
	var all error
	for i, err := range errs {
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" || op.Addr == nil || op.Addr.String() != addrs[i] {
			err = fmt.Errorf("%s: %w", addrs[i], err) // else it names the address itself
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}
