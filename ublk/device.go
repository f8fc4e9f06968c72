package ublk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/robib-ublk/robib/ublk/blk"
)

// Defaults of AddOptions.
const (
	DefaultDepth   = 128
	DefaultMaxIO   = 512 << 10
	MaxQueues      = 8
	maxDepth       = 4096
	charWait       = 10 * time.Second
	charPoll       = 5 * time.Millisecond
	recoveryWait   = 60 * time.Second
	startTimeout   = 60 * time.Second // START waits for the partition scan, which reads through the server
	removeTimeout  = 30 * time.Second
	neededFeatures = FeatUserRecovery | FeatRecoveryReissue | FeatIoctlEncode
)

// AddOptions of a new device. The zero value: any id, depth 128, 512 KiB requests, recoverable.
type AddOptions struct {
	ID         int // the N of /dev/ublkbN; -1: any
	Depth      int
	MaxIOBytes int
	Queues     int // hardware queues; 0: one. The driver grants no more than there are CPUs
}

// Device is one ublk device, made or found.
type Device struct {
	c    *Control
	info devInfo
}

// Info is what the driver says of a device.
type Info struct {
	ID        int
	Depth     int
	Queues    int
	State     int
	ServerPID int
	MaxIO     int
	Flags     uint64
}

// Add makes a device; it does not appear as /dev/ublkbN until Start. The driver may grant
// other flags than asked for: what it returned counts.
func (c *Control) Add(o AddOptions) (*Device, error) {
	if o.Depth == 0 {
		o.Depth = DefaultDepth
	}
	if o.MaxIOBytes == 0 {
		o.MaxIOBytes = DefaultMaxIO
	}
	if o.Depth < 1 || o.Depth > maxDepth {
		return nil, fmt.Errorf("ublk: depth %d: 1 to %d", o.Depth, maxDepth)
	}
	if o.Queues = max(o.Queues, 1); o.Queues > MaxQueues {
		return nil, fmt.Errorf("ublk: %d queues: 1 to %d", o.Queues, MaxQueues)
	}
	i := devInfo{nrHWQueues: uint16(o.Queues), queueDepth: uint16(o.Depth), maxIOBufBytes: uint32((o.MaxIOBytes + 4095) &^ 4095), devID: uint32(o.ID), flags: neededFeatures}
	out, err := c.command("add", cmdAdd, o.ID, 0, bytesOf(i), 0)
	if errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("ublk device %d exists already: choose another id", o.ID)
	}
	if err != nil {
		return nil, err
	}
	d := &Device{c: c, info: infoOf(out)}
	if d.info.flags&neededFeatures != neededFeatures {
		err := &FeatureError{neededFeatures &^ d.info.flags}
		return nil, errors.Join(err, d.Del())
	}
	return d, nil
}

// Find gives a device that exists.
func (c *Control) Find(id int) (*Device, error) {
	out, err := c.command("get info", cmdGetDevInfo, id, 0, append(make([]byte, 0, 64), bytesOf(devInfo{})...), 0)
	if err != nil {
		return nil, err
	}
	return &Device{c: c, info: infoOf(out)}, nil
}

// List gives the ids of all ublk devices, live or not.
func List() ([]int, error) {
	d, err := os.ReadDir("/sys/class/ublk-char")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, e := range d {
		if n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "ublkc")); err == nil {
			ids = append(ids, n)
		}
	}
	sort.Ints(ids)
	return ids, nil
}

// ID is the N of /dev/ublkbN.
func (d *Device) ID() int { return int(d.info.devID) }

// Path is the block device.
func (d *Device) Path() string { return fmt.Sprintf("/dev/ublkb%d", d.ID()) }

// Info asks the driver again.
func (d *Device) Info() (Info, error) {
	n, err := d.c.Find(d.ID())
	if err != nil {
		return Info{}, err
	}
	d.info = n.info
	i := d.info
	return Info{ID: int(i.devID), Depth: int(i.queueDepth), Queues: int(i.nrHWQueues), State: int(i.state), ServerPID: int(i.ublksrvPID),
		MaxIO: int(i.maxIOBufBytes), Flags: i.flags}, nil
}

// Affinity is the set of CPUs whose requests a queue gets, as a bit mask of 64-bit words.
func (d *Device) Affinity(queue int) ([]uint64, error) {
	out, err := d.c.command("get queue affinity", cmdGetQueueAffinity, d.ID(), uint64(queue), make([]byte, 128), 0)
	if err != nil {
		return nil, err
	}
	words := make([]uint64, len(out)/8)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(out[i*8:])
	}
	return words, nil
}

// SetParams tells the driver what the device below is; before Start.
func (d *Device) SetParams(i blk.Info) error {
	p, err := paramsOf(i, int(d.info.maxIOBufBytes))
	if err != nil {
		return err
	}
	_, err = d.c.command("set parameters", cmdSetParams, d.ID(), 0, bytesOf(p), 0)
	return err
}

// Start makes /dev/ublkbN appear. The queue must be fetching already, and goes on serving
// meanwhile: the kernel scans for partitions. Not from the loop's thread.
func (d *Device) Start() error {
	_, err := d.c.command("start", cmdStart, d.ID(), uint64(os.Getpid()), nil, startTimeout)
	if err == nil {
		// What orders requests for a disk's arm lies below the server. With one hardware queue
		// the kernel would choose mq-deadline, which halves the rate of small requests. Best
		// effort: with another scheduler the device works all the same.
		os.WriteFile(fmt.Sprintf("/sys/block/ublkb%d/queue/scheduler", d.ID()), []byte("none"), 0)
	}
	return err
}

// ErrStopped says that a device was stopped, or never started: there is no /dev/ublkbN to go on with, only
// something to delete.
var ErrStopped = errors.New("the device was stopped")

// StartRecovery takes a device whose server died out of its server's hands. It is refused with
// EBUSY until the dead server is gone entirely, and asked again until then. A device that the dead server
// had stopped is refused so for ever, and one that it had not started with EINVAL on some kernels
// (ublk_ctrl_start_recovery of drivers/block/ublk_drv.c): ErrStopped.
func (d *Device) StartRecovery() error {
	for end := time.Now().Add(recoveryWait); ; time.Sleep(charPoll) {
		_, err := d.c.command("start recovery", cmdStartRecovery, d.ID(), 0, nil, 0)
		if err == nil {
			return nil
		}
		if i, e := d.Info(); e == nil && i.State == StateDead {
			return ErrStopped
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// EndRecovery hands the device to this process, whose queue must be fetching already; requests
// that the dead server had are issued again. Not from the loop's thread.
func (d *Device) EndRecovery() error {
	_, err := d.c.command("end recovery", cmdEndRecovery, d.ID(), uint64(os.Getpid()), nil, startTimeout)
	return err
}

// Stop takes /dev/ublkbN away; the queue must go on serving until it says that it has ended.
func (d *Device) Stop() error {
	_, err := d.c.command("stop", cmdStop, d.ID(), 0, nil, removeTimeout)
	return err
}

// Del removes the device. It waits for every reference: the queue must be closed, and an open
// /dev/ublkbN holds it up until the deadline.
func (d *Device) Del() error {
	_, err := d.c.command("del", cmdDel, d.ID(), 0, nil, removeTimeout)
	return err
}

// openChar opens /dev/ublkcN, which udev or devtmpfs makes some time after ADD.
func (d *Device) openChar() (*os.File, error) {
	path := fmt.Sprintf("/dev/ublkc%d", d.ID())
	for end := time.Now().Add(charWait); ; time.Sleep(charPoll) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil || time.Now().After(end) || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			return f, err
		}
	}
}
