package metrics

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the server: a scraper needs one connection and a few milliseconds.
const (
	maxConnections = 16
	maxScrapes     = 2 // at a time; a loop that does not answer holds no more goroutines than that
	scrapeTimeout  = 10 * time.Second
	headerTimeout  = 5 * time.Second
	writeTimeout   = 15 * time.Second
	idleTimeout    = 2 * time.Minute // longer than the usual time between scrapes
	maxHeaderBytes = 16 << 10
)

const index = `<!doctype html><title>robib-ublk</title><p>A volume of robib-ublk: <a href="/metrics">metrics</a>
`

// ParseAddress gives what a configuration keeps: [HOST]:PORT, or nothing for off.
func ParseAddress(v string) (string, error) {
	if v == "off" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(v)
	if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || n == 0 {
		return "", fmt.Errorf("%q: want [HOST]:PORT, for example 127.0.0.1:9469, or off", v)
	}
	return net.JoinHostPort(host, port), nil
}

// Check reports why addr cannot be listened on now; "" always can.
func Check(addr string) error {
	if addr == "" {
		return nil
	}
	l, err := listen(addr)
	if err != nil {
		return err
	}
	return l.Close()
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	var errno syscall.Errno
	var op *net.OpError
	switch {
	case errors.As(err, &errno):
		err = errno
	case errors.As(err, &op):
		err = op.Err
	}
	return nil, fmt.Errorf("metrics cannot be served on %s: %w: choose another address, or off", addr, err)
}

// Server serves one volume's metrics over HTTP: /metrics, an index page, nothing else.
type Server struct {
	addr net.Addr
	http *http.Server
	done chan error
}

// Listen begins to serve on addr; its goroutines end with Close.
func Listen(addr, volume string, src Source) (*Server, error) {
	l, err := listen(addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: l.Addr(), done: make(chan error, 1)}
	s.http = &http.Server{Handler: handler(volume, src), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: log.New(io.Discard, "", 0)} // what strangers send is no news, and could fill a disk
	go func() { s.done <- s.http.Serve(&capped{Listener: l, free: make(chan struct{}, maxConnections)}) }()
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.addr.String() }

// Close ends the server at once: a scrape under way is cut off.
func (s *Server) Close() error {
	err := s.http.Close()
	if e := <-s.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func handler(volume string, src Source) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(NewCollector(volume, src), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := http.NewServeMux()
	// Uncompressed: the answer is small, and the CPU is the volume's.
	m.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout, DisableCompression: true}))
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, index)
	})
	return m
}

// capped closes connections beyond its limit as soon as they come.
type capped struct {
	net.Listener
	free chan struct{} // as many as are in use
}

func (l *capped) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &cappedConn{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
		default:
			c.Close()
		}
	}
}

type cappedConn struct {
	net.Conn
	release func()
}

func (c *cappedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
