package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watching is the flag of commands that can show their answer again and again.
type watching struct {
	Watch bool `short:"w" help:"Show it anew each time duration has passed, in place on a terminal, until ^C."`
}

// screen shows texts one after the other: in place on a terminal, else below each other with an empty
// line between them.
type screen struct {
	out   io.Writer
	rows  func() int // of the terminal now; nil: it is none
	shown int
}

// newScreen is that of f; a terminal whose size is not known counts as none.
func newScreen(f *os.File) *screen {
	s := &screen{out: f}
	rows := func() int {
		w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return 0
		}
		return int(w.Row)
	}
	if rows() > 0 {
		s.rows = rows
	}
	return s
}

// Escape sequences of ECMA-48 and, for wrapping, of the VT100.
const (
	wrapOff   = "\x1b[?7l" // a line that is too long is cut, not continued: rows are lines
	wrapOn    = "\x1b[?7h"
	home      = "\x1b[H"
	clearAll  = "\x1b[2J"
	clearLine = "\x1b[K"
	clearRest = "\x1b[J"
)

// show shows text, whole lines, in one write. What does not fit is cut, and that is said.
func (s *screen) show(text []byte) error {
	var b bytes.Buffer
	switch {
	case s.rows == nil && s.shown > 0:
		b.WriteByte('\n')
		fallthrough
	case s.rows == nil:
		b.Write(text)
	default:
		b.WriteString(wrapOff + home)
		if s.shown == 0 {
			b.WriteString(clearAll)
		}
		lines := bytes.SplitAfter(text, []byte("\n"))
		lines = lines[:len(lines)-1] // the cursor stays in the row below the last
		if n := max(s.rows(), 2) - 1; len(lines) > n {
			more := fmt.Sprintf("… %d more lines\n", len(lines)-n+1)
			lines = append(lines[:n-1:n-1], []byte(more))
		}
		for _, l := range lines {
			b.WriteString(clearLine) // before it: a tab does not erase what it passes
			b.Write(l)
		}
		b.WriteString(clearRest + wrapOn)
	}
	s.shown++
	_, err := s.out.Write(b.Bytes())
	return err
}

// repeat has answer asked for each time d has passed, and shows it, until ctx ends: that is no error.
// JSON documents follow one another as they are.
func (c *CLI) repeat(ctx context.Context, d time.Duration, s *screen, answer func() (v any, text func(io.Writer) error, err error)) error {
	for wait(ctx, d) && ctx.Err() == nil {
		v, text, err := answer()
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := c.write(&b, v, text); err != nil {
			return err
		}
		if c.JSON || c.Pretty {
			_, err = s.out.Write(b.Bytes())
		} else {
			err = s.show(b.Bytes())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
