package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/robib-ublk/robib/dcd/seglog"
)

// keep puts a segment that is about to be cut aside, in the state directory, for inspection.
func (k *stack) keep(raw []byte) {
	s, err := seglog.ParseHeader(raw, len(raw))
	if err != nil {
		return
	}
	dir := filepath.Join(State(), "cut", k.s.c.Name)
	path := filepath.Join(dir, fmt.Sprintf("%d-%d-%d.segment", time.Now().Unix(), s.Term.Number, s.LSN))
	if err = os.MkdirAll(dir, 0o700); err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		k.s.o.Logf("%s: could not keep the cut segment %d aside: %v", k.s.c.Name, s.LSN, err)
	}
}
