package volume

import (
	"context"
	"errors"
	"time"
)

// awaited is a slow step of a command: it is looked at again and again.
type awaited struct {
	look    func() (done bool, err error) // on the loop's thread
	tell    func() string                 // how far it is, once a second
	stopped func() error                  // what an interrupted wait leaves behind
	quiet   time.Duration                 // before it is told for the first time
}

// await waits until the step is done, has failed, or ctx ends.
func (s *Server) await(ctx context.Context, progress func(string), a awaited) error {
	for next := time.Now().Add(a.quiet); ; time.Sleep(poll) {
		var done bool
		var err error
		if e := s.stack.call(func() { done, err = a.look() }); e != nil || err != nil {
			return errors.Join(e, err)
		}
		if done {
			return nil
		}
		if ctx.Err() != nil {
			return a.stopped()
		}
		if now := time.Now(); now.After(next) {
			progress(a.tell())
			next = now.Add(time.Second)
		}
	}
}
