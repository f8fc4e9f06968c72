package main

import (
	"encoding/json"
	"io"
	"os"
)

// print writes v as JSON when the user asked for it, else by text.
func (c *CLI) print(v any, text func(w io.Writer) error) error { return c.write(os.Stdout, v, text) }

// write is print to w.
func (c *CLI) write(w io.Writer, v any, text func(w io.Writer) error) error {
	if !c.JSON && !c.Pretty {
		return text(w)
	}
	e := json.NewEncoder(w)
	if c.Pretty {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}
