package ublk

import (
	"context"
	"errors"
	"fmt"

	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/uring"
)

// Serve makes a device over what open gives, tells live of it, and serves it until ctx ends; then
// it takes the device away. open runs on the loop's thread, where onLoop, good until Serve returns,
// runs a function and waits for it.
func Serve(ctx context.Context, o AddOptions, open func(*uring.Loop) (blk.Device, error), live func(d *Device, onLoop func(f func(q *Queues)) error)) error {
	c, err := Open()
	if err != nil {
		return err
	}
	d, err := c.Add(o)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	s := &server{d: d, opened: make(chan error, 1), ended: make(chan struct{}), ran: make(chan error, 1)}
	go s.run(open)
	err = <-s.opened
	if err == nil {
		err = d.Start()
	}
	if err == nil {
		live(d, s.call)
		select {
		case <-ctx.Done():
		case err = <-s.ran:
			s.ran <- err
		}
	}
	return errors.Join(err, s.end(), d.Del(), c.Close())
}

// server is the loop of a bare target.
type server struct {
	d      *Device
	loop   *uring.Loop
	queue  *Queues
	opened chan error
	ended  chan struct{} // all tags are back
	ran    chan error    // the loop's end
}

func (s *server) run(open func(*uring.Loop) (blk.Device, error)) {
	l, err := uring.NewLoop(uring.LoopOptions{Options: uring.Options{Entries: 512}})
	if err != nil {
		s.opened <- err
		s.ran <- nil
		return
	}
	dev, err := open(l)
	if err == nil {
		if err = s.d.SetParams(dev.Info()); err == nil {
			s.queue, err = NewQueues(l, s.d, dev)
		}
	}
	if err != nil {
		s.opened <- errors.Join(err, l.Close())
		s.ran <- nil
		return
	}
	s.loop = l
	s.queue.Ended = func() { close(s.ended) }
	s.opened <- nil
	err = l.Run(func(now int64) int64 {
		wake := dev.Kick(blk.Instant{Mono: now})
		s.queue.Kick(blk.Instant{Mono: now})
		return wake
	})
	s.ran <- errors.Join(err, s.queue.Err(), s.queue.Close(), dev.Close(), l.Close())
}

// call runs f on the loop's thread.
func (s *server) call(f func(q *Queues)) error {
	done := make(chan struct{})
	if !s.loop.Post(func() { f(s.queue); close(done) }) {
		return errors.New("ublk: the loop has ended")
	}
	<-done
	return nil
}

// end stops the device, waits until the driver has given all tags back, and ends the loop.
func (s *server) end() error {
	if s.loop == nil {
		return <-s.ran
	}
	if err := s.d.Stop(); err != nil {
		return fmt.Errorf("the device stays: %w", err)
	}
	select {
	case <-s.ended:
	case err := <-s.ran:
		return err
	}
	s.loop.Stop()
	return <-s.ran
}
