package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the generated help into README.md")

const (
	readme    = "../../README.md"
	helpBegin = "<!-- help: begin (go test ./cmd/robib-ublk -update) -->\n"
	helpEnd   = "<!-- help: end -->"
)

// helpText is the grammar as README shows it: one row a command, all its flags.
func helpText(t *testing.T) string {
	t.Helper()
	var cli CLI
	k, err := kong.New(&cli, kong.Name("robib-ublk"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| command | what it does |\n|---|---|\n")
	for _, n := range k.Model.Leaves(true) {
		words := []string{n.Path()}
		for _, f := range n.Flags {
			if f.Hidden || f.Name == "help" {
				continue
			}
			s := "--" + f.Name
			if !f.IsBool() {
				s += " " + f.FormatPlaceHolder()
			}
			if !f.Required {
				s = "[" + s + "]"
			}
			words = append(words, s)
		}
		for _, p := range n.Positional {
			words = append(words, p.Summary())
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(strings.Join(words, " "), "|", "\\|"), n.Help)
	}
	return b.String()
}

// The table of commands in README.md is what the program itself says.
func TestReadmeIsFresh(t *testing.T) {
	raw, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), helpBegin)
	old, after, ok2 := strings.Cut(rest, helpEnd)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the help text")
	}
	text := helpText(t)
	if old == text {
		return
	}
	if !*update {
		t.Fatal("README.md's table of commands is stale: go test ./cmd/robib-ublk -update")
	}
	if err := os.WriteFile(readme, []byte(before+helpBegin+text+helpEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
