package e2e

import (
	"bytes"
	"io"
	"net"
	"sync"
)

// Proxy is a link between two machines that can be cut and that looks for a marker in what it carries.
type Proxy struct {
	l  net.Listener
	to string

	mu     sync.Mutex
	conns  map[net.Conn]bool
	cut    bool
	closed bool
	marker []byte
	seen   bool
	bytes  int64
	wg     sync.WaitGroup
}

// NewProxy listens at from and carries each connection to to.
func NewProxy(from, to string) (*Proxy, error) {
	l, err := net.Listen("tcp", from)
	if err != nil {
		return nil, err
	}
	p := &Proxy{l: l, to: to, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Watch makes the proxy look for marker from now on.
func (p *Proxy) Watch(marker []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marker, p.seen = marker, false
}

// Seen reports whether the marker went through, and how many bytes did in all.
func (p *Proxy) Seen() (bool, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen, p.bytes
}

// Cut ends every connection and lets none through until Restore.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.drop()
}

func (p *Proxy) drop() {
	for c := range p.conns {
		c.Close()
	}
}

// Restore lets connections through again.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// Close ends the proxy and waits for its goroutines.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.drop()
	p.mu.Unlock()
	err := p.l.Close()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.add(c) {
			continue
		}
		p.wg.Go(func() {
			defer p.remove(c)
			d, err := net.Dial("tcp", p.to)
			if err != nil {
				return
			}
			defer d.Close()
			if !p.add(d) {
				return
			}
			defer p.remove(d)
			var both sync.WaitGroup
			both.Go(func() { p.carry(d, c) })
			both.Go(func() { p.carry(c, d) })
			both.Wait()
		})
	}
}

func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

// carry copies src to dst; the last bytes of a read are kept so that a marker over two reads is found.
func (p *Proxy) carry(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	b := make([]byte, 256<<10)
	var tail []byte
	for {
		n, err := src.Read(b)
		if n > 0 {
			tail = p.look(append(tail, b[:n]...))
			if _, e := dst.Write(b[:n]); e != nil {
				return
			}
		}
		if err == io.EOF || err != nil {
			return
		}
	}
}

func (p *Proxy) look(b []byte) (tail []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(len(b))
	if len(p.marker) == 0 {
		return nil
	}
	if bytes.Contains(b, p.marker) {
		p.seen = true
	}
	keep := min(len(b), len(p.marker)-1)
	return append([]byte(nil), b[len(b)-keep:]...)
}
