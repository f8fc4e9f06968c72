package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Dir is where the sockets live unless ROBIB_RUN_DIR names another place.
const Dir = "/run/robib-ublk"

// maxBody bounds a request's body.
const maxBody = 64 << 10

// RunDir is the directory of the sockets and of what a restarted server must find again.
func RunDir() string {
	if d := os.Getenv("ROBIB_RUN_DIR"); d != "" {
		return d
	}
	return Dir
}

// Path is the socket of volume name.
func Path(name string) string { return filepath.Join(RunDir(), name+".sock") }

// Handler does the work. Every method may be called from any goroutine.
type Handler interface {
	Status() (any, error)
	// Do runs one command; progress may be called any number of times before it returns.
	Do(ctx context.Context, command string, args Args, progress func(string)) (any, error)
}

// Args are a command's arguments.
type Args struct {
	Force     bool              `json:"force,omitempty"`
	Set       map[string]string `json:"set,omitempty"` // settings to change, by name
	Disk      string            `json:"disk,omitempty"`
	Log       string            `json:"log,omitempty"`
	LogBytes  int64             `json:"log_bytes,omitempty"`
	CreateLog bool              `json:"create_log,omitempty"`
	Overwrite bool              `json:"overwrite,omitempty"` // what is found there may be destroyed

	WaitMillis int64 `json:"wait_ms,omitempty"` // how long the other machine may take; 0: the default
}

// Line is one line of a command's answer: progress lines, then one with Done.
type Line struct {
	Progress string          `json:"progress,omitempty"`
	Done     bool            `json:"done,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// Server serves one volume's socket.
type Server struct {
	l    net.Listener
	http *http.Server
	done chan error
}

// Listen opens the socket 0600 in a 0700 directory and serves h until Close.
func Listen(name string, h Handler) (*Server, error) {
	if err := os.MkdirAll(RunDir(), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(RunDir(), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	path := Path(name)
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("volume %s is already running (%s answers)", name, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := &Server{l: guard{l}, done: make(chan error, 1)}
	s.http = &http.Server{Handler: mux(h), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() { s.done <- s.http.Serve(s.l) }()
	return s, nil
}

// Close ends the socket; answers under way get a second to finish.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if e := <-s.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func mux(h Handler) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		v, err := h.Status()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	})
	m.HandleFunc("POST /v1/do/{command}", func(w http.ResponseWriter, r *http.Request) {
		var a Args
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&a); err != nil {
			http.Error(w, "arguments: "+err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := json.NewEncoder(w)
		send := func(l Line) {
			out.Encode(l)
			if f, ok := w.(http.Flusher); ok {
				f.Flush()
			}
		}
		v, err := h.Do(r.Context(), r.PathValue("command"), a, func(p string) { send(Line{Progress: p}) })
		last := Line{Done: true}
		if err != nil {
			last.Error = err.Error()
		} else if v != nil {
			if last.Result, err = json.Marshal(v); err != nil {
				last.Error = err.Error()
			}
		}
		send(last)
	})
	return m
}

// guard closes connections from other users: the file mode already refuses them, and a socket
// passed on by descriptor does not get past this.
type guard struct{ net.Listener }

func (g guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || uid == os.Getuid()) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c net.Conn) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix connection")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return int(cred.Uid), nil
}
