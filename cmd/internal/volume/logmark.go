package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/robib-ublk/robib/dcd/seglog"
)

// logMark is how often a log's superblock was written when its server last looked, and the newest segment that
// was durable then: a log that has been written less often, or ends before that, is an older copy of itself.
type logMark struct {
	Log    string     `json:"log_uuid"`
	Writes uint64     `json:"superblock_writes"`
	LSN    seglog.LSN `json:"durable_lsn"`
}

// logMarkEvery is how often a running server looks.
const logMarkEvery = time.Minute

func logMarkPath(name string) string { return filepath.Join(State(), "volumes", name+".logmark") }

// checkMark refuses an older copy of volume name's log, of which this is known: its superblock, and, where it
// was opened, its newest segment.
func checkMark(name, log string, is logMark, opened bool) error {
	b, err := os.ReadFile(logMarkPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var was logMark
	if err == nil {
		err = json.Unmarshal(b, &was)
	}
	if err != nil {
		return fmt.Errorf("what is remembered of the log of volume %s: %w; remove %s if the log is the right one", name, err, logMarkPath(name))
	}
	// What takes segments away from the end writes the superblock too.
	older := is.Writes < was.Writes || opened && is.Writes == was.Writes && is.LSN < was.LSN
	if was.Log != is.Log || !older {
		return nil
	}
	return fmt.Errorf("log %s is an older copy of itself: when volume %s was last served it had %d superblock writes and segments up to %d, now it has %d and %d; what was written since is not in it and would read as it was before. "+
		"Find the right one, or say --accept-log to go on with this one", log, name, was.Writes, was.LSN, is.Writes, is.LSN)
}

// noteLog says, on the loop, what is to be remembered of the log.
func (k *stack) noteLog() {
	if k.log == nil {
		return
	}
	l := k.cache.Log()
	if m := k.logMark(); l.Device() != nil && m != k.marked {
		k.marked = m
		k.mark.Store(&m)
	}
}

func (k *stack) logMark() logMark {
	l := k.cache.Log()
	return logMark{l.Super().Log.String(), l.SuperWrites(), l.Durable()}
}

// markLog remembers it, when something has changed.
func (s *Server) markLog() {
	s.marking.Lock()
	defer s.marking.Unlock()
	m := s.stack.mark.Load()
	if m == nil || m == s.marked {
		return
	}
	if _, err := os.Stat(configPath(s.conf().Name)); err != nil {
		return // the volume is forgotten
	}
	b, err := json.Marshal(m)
	if err == nil {
		err = writeFile(logMarkPath(s.conf().Name), append(b, '\n'))
	}
	if err != nil {
		s.o.Logf("%s: %v: an older copy of the log would not be noticed", s.conf().Name, err)
		return
	}
	s.marked = m
}

// keepMarking looks at the log every now and then, until the server ends.
func (s *Server) keepMarking() {
	for t := time.NewTicker(logMarkEvery); ; {
		select {
		case <-t.C:
			s.markLog()
		case <-s.ended:
			t.Stop()
			return
		}
	}
}
