package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func TestScreen(t *testing.T) {
	var b bytes.Buffer
	take := func() string {
		defer b.Reset()
		return b.String()
	}
	plain := &screen{out: &b}
	plain.show([]byte("a\nb\n"))
	plain.show([]byte("c\n"))
	if got := take(); got != "a\nb\n\nc\n" {
		t.Errorf("%q", got)
	}
	rows := 24
	term := &screen{out: &b, rows: func() int { return rows }}
	term.show([]byte("a\nb\n"))
	if got := take(); got != "\x1b[?7l\x1b[H\x1b[2J\x1b[Ka\n\x1b[Kb\n\x1b[J\x1b[?7h" {
		t.Errorf("%q", got)
	}
	term.show([]byte("c\n"))
	if got := take(); got != "\x1b[?7l\x1b[H\x1b[Kc\n\x1b[J\x1b[?7h" {
		t.Errorf("%q", got)
	}
	// Never more lines than rows, or the top would scroll away and the next frame begin too low.
	for rows = 1; rows < 8; rows++ {
		term.show([]byte(strings.Repeat("x\n", 5)))
		got := take()
		if n := strings.Count(got, "\n"); n > max(rows, 2)-1 || (rows < 6) != strings.Contains(got, "more lines") || rows == 4 && !strings.Contains(got, "… 3 more lines") {
			t.Errorf("%d rows: %q", rows, got)
		}
	}
}

// Watching goes on until it is interrupted, which is no error; one that fails ends it.
func TestRepeat(t *testing.T) {
	for _, x := range []struct {
		cli  CLI
		want string
	}{{CLI{}, "frame 1\n\nframe 2\n\nframe 3\n"}, {CLI{JSON: true}, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n"}} {
		var b bytes.Buffer
		ctx, stop := context.WithCancel(context.Background())
		n := 0
		answer := func() (any, func(io.Writer) error, error) {
			if n++; n == 3 {
				stop()
			}
			k := n
			return map[string]int{"n": k}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "frame %d\n", k)
				return err
			}, nil
		}
		if err := x.cli.repeat(ctx, time.Microsecond, &screen{out: &b}, answer); err != nil || b.String() != x.want {
			t.Errorf("%v, %q", err, b.String())
		}
	}
	gone := errors.New("gone")
	if err := (&CLI{}).repeat(context.Background(), 0, &screen{}, func() (any, func(io.Writer) error, error) { return nil, nil, gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
}
