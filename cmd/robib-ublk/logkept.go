package main

import (
	"fmt"
	"io"

	"github.com/robib-ublk/robib/cmd/internal/volume"
)

// LogKeptCmd lists what was given up of logs.
type LogKeptCmd struct {
	Name    string `arg:"" optional:"" help:"The volume; without it all of them."`
	Records bool   `help:"Each write too, and where its data lies in the file."`
}

// Run reads the files in the state directory.
func (l *LogKeptCmd) Run(cli *CLI) error {
	list, err := volume.ListKept(l.Name, l.Records)
	if err != nil {
		return err
	}
	for i := range list {
		for j := range list[i].List {
			r := &list[i].List[j]
			r.Word = kindNames[r.Kind]
		}
	}
	return cli.print(list, func(w io.Writer) error {
		if len(list) == 0 {
			fmt.Fprintln(w, "nothing was given up")
		}
		for _, k := range list {
			fmt.Fprintf(w, "%s: given up %s: LSN %d to %d, term %d, last sealed %s, %d writes, %s of data\n\t%s\n", k.Name, k.At, k.First, k.Last, k.Term, k.Sealed, k.Records, volume.Bytes(k.Bytes), k.Path)
			if k.Error != "" {
				fmt.Fprintf(w, "\tBAD  the rest cannot be read: %s\n", k.Error)
			}
			for _, r := range k.List {
				fmt.Fprintf(w, "\tLSN %d  %s  %d  %d", r.LSN, r.Word, r.Offset, r.Length)
				if r.At > 0 {
					fmt.Fprintf(w, "  at byte %d of the file", r.At)
				}
				fmt.Fprintln(w)
			}
		}
		return nil
	})
}
