package main

import (
	"encoding/json"
	"io"
	"os"
)

// print writes v as JSON when the user asked for it, else by text.
func (c *CLI) print(v any, text func(w io.Writer) error) error {
	if !c.JSON && !c.Pretty {
		return text(os.Stdout)
	}
	e := json.NewEncoder(os.Stdout)
	if c.Pretty {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}
