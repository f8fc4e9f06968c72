package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"
)

// StatusTimeout bounds a status question: a stuck server must not hang the question too.
const StatusTimeout = 10 * time.Second

// ErrNotRunning says that no server answers for a volume.
var ErrNotRunning = errors.New("not running")

func client(name string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", Path(name))
		},
	}}
}

func explain(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: the control socket %s belongs to root: run this as root", name, Path(name))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: its server did not answer within %v", name, StatusTimeout)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Status fills v with the status of volume name.
func Status(name string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), StatusTimeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://robib/v1/status", nil)
	if err != nil {
		return err
	}
	r, err := client(name).Do(q)
	if err != nil {
		return explain(name, err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		return fmt.Errorf("%s: %s", name, strings.TrimSpace(string(b)))
	}
	return json.NewDecoder(r.Body).Decode(v)
}

// Do runs a command at volume name's server until it is done or ctx ends.
func Do(ctx context.Context, name, command string, a Args, progress func(string), result any) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://robib/v1/do/"+command, bytes.NewReader(b))
	if err != nil {
		return err
	}
	r, err := client(name).Do(q)
	if err != nil {
		return explain(name, err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		return fmt.Errorf("%s: %s", name, strings.TrimSpace(string(b)))
	}
	d := json.NewDecoder(r.Body)
	for {
		var l Line
		if err := d.Decode(&l); err != nil {
			return fmt.Errorf("%s: the server ended before `%s` was done: %w", name, command, err)
		}
		switch {
		case !l.Done:
			if progress != nil {
				progress(l.Progress)
			}
		case l.Error != "":
			return errors.New(l.Error)
		case result != nil && l.Result != nil:
			return json.Unmarshal(l.Result, result)
		default:
			return nil
		}
	}
}

// Names lists the volumes that have a socket, sorted; a socket may be left over from a dead server.
func Names() ([]string, error) {
	d, err := os.ReadDir(RunDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range d {
		if n, ok := strings.CutSuffix(e.Name(), ".sock"); ok {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names, nil
}
