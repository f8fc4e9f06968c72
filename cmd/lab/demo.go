package main

import (
	"errors"

	"github.com/robib-ublk/robib/cmd/internal/demo"
	"github.com/robib-ublk/robib/cmd/lab/vm"
)

// DemoCmd shows the whole story once.
type DemoCmd struct {
	Kernel string `default:"7" help:"Kernel to show it on: 6.12, 7 (the newest Debian has), or the path of a vmlinuz-VERSION."`
}

// Run boots the kernel and plays the demo in it.
func (d *DemoCmd) Run(*CLI) error {
	l, err := vm.New()
	if err != nil {
		return err
	}
	j, clean, err := job(l, d.Kernel)
	defer clean()
	if err != nil {
		return err
	}
	j.Args, j.Tree = []string{"/bin/lab", "guest-demo"}, true
	return l.Phase("demo on kernel "+j.Kernel.Version, func() error {
		code, err := l.Run(j)
		if errors.Is(err, vm.ErrKernel) {
			l.Say("the emulated machine's kernel died; the demo begins anew (%v)", err)
			code, err = l.Run(j)
		}
		return finish(code, err)
	})
}

// GuestDemoCmd is the demo's part inside the guest.
type GuestDemoCmd struct{}

// Run plays the scenes.
func (*GuestDemoCmd) Run(*CLI) error { return demo.Run() }
