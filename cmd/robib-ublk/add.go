package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/robib-ublk/robib/cmd/internal/metrics"
	"github.com/robib-ublk/robib/cmd/internal/volume"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/link"
	"github.com/robib-ublk/robib/ublk"
)

// making are the flags that add and serve share.
type making struct {
	Disk       string `help:"The data disk: a block device or a file." placeholder:"PATH"`
	Log        string `help:"The log device or file; without it a file in the state directory." placeholder:"PATH"`
	LogSize    int64  `help:"Size in MiB of a log file that is made, or of what is used of a log device." placeholder:"MIB"`
	CreateLog  bool   `help:"Format a blank log device."`
	Overwrite  bool   `help:"Destroy what is found on the log, or on a secondary's disk."`
	Name       string `help:"The volume's name; without it the disk's." placeholder:"NAME"`
	Foreground bool   `help:"Stay in the foreground; state changes go to standard error."`
	AcceptDisk bool   `help:"Replay the log although the disk was changed behind its back."`
	AcceptLog  bool   `help:"Go on with a log that is an older copy of itself: what was written since is lost."`
	RAM        int64  `name:"ram" help:"RAM that keeps the newest bytes of a log that is made, so that destage and the mirror need not read them back (default 64)." placeholder:"MIB"`
	Encrypt    string `enum:",on,off" default:"" help:"off: the two machines prove their keys, and then do not encrypt; both sides must say so. For trusted links only." placeholder:"ON|OFF"`
	Ordered    *bool  `negatable:"" help:"Destage in write order, flushed segment by segment: the disk alone is always an older crash-consistent image."`
	Latency    *bool  `negatable:"" help:"Attach the latency probes to the block device (the default)."`
	LowWater   int    `help:"Fill of the log in per cent from which destage does not wait for an idle disk (default 50)." placeholder:"PERCENT"`
	HighWater  int    `help:"Fill from which destage works all the time and writes are admitted as fast as space comes back (default 80)." placeholder:"PERCENT"`
	Metrics    string `help:"Serve the volume's metrics to Prometheus there: HTTP without a password, so choose an address that only those can reach who may see them. Off by default." placeholder:"[HOST]:PORT|OFF"`
	Heartbeat  string `help:"How often the peer is asked whether it is there, 100ms to 60s (default 1s)." placeholder:"DURATION"`
	PeerDead   string `help:"Silence after which the peer counts as dead, at least three heartbeats, at most 10m (default 5s)." placeholder:"DURATION"`
}

func (m *making) request(role volume.Role) (volume.Request, error) {
	q := volume.Request{Role: role, Name: m.Name, Disk: m.Disk, Log: m.Log, LogBytes: m.LogSize << 20, CreateLog: m.CreateLog, AcceptLog: m.AcceptLog, Overwrite: m.Overwrite, DeviceID: -1}
	if m.Disk == "" && m.Name == "" {
		return q, volume.Usagef("name the disk with --disk, or a known volume with --name")
	}
	if m.RAM < 0 || m.RAM > 4096 {
		return q, volume.Usagef("--ram %d: 1 to 4096 MiB", m.RAM)
	}
	q.Settings = volume.Settings{Ordered: m.Ordered, Latency: m.Latency, LowWater: m.LowWater, HighWater: m.HighWater, RAMBytes: m.RAM << 20}
	for _, w := range []struct {
		flag, text string
		millis     *int64
	}{{"heartbeat", m.Heartbeat, &q.Heartbeat}, {"peer-dead", m.PeerDead, &q.PeerDead}} {
		if w.text == "" {
			continue
		}
		n, err := volume.ParseWait(w.text)
		if err != nil {
			return q, volume.Usagef("--%s %v", w.flag, err)
		}
		*w.millis = n
	}
	if m.Encrypt != "" {
		off := m.Encrypt == "off"
		q.Plain = &off
	}
	if m.Metrics != "" {
		a, err := metrics.ParseAddress(m.Metrics)
		if err != nil {
			return q, volume.Usagef("--metrics %v", err)
		}
		q.Metrics = &a
	}
	if m.LogSize < 0 {
		return q, volume.Usagef("--log-size %d: a positive number of MiB", m.LogSize)
	}
	return q, nil
}

// AddCmd makes or reopens a volume on the machine that uses it.
type AddCmd struct {
	making
	Remote       string `help:"The machine that holds the second copy, HOST:PORT; several addresses of it, separated by commas, are tried in turn, the last good one first." placeholder:"ADDR,..."`
	Pair         string `help:"The pairing token that serve printed, or - to read it from standard input." placeholder:"TOKEN"`
	RateLimit    string `help:"The most bytes of data sent to the peer per second, such as 10M or 100mbit; off lifts it. Heartbeats and acknowledgements do not wait for it." placeholder:"RATE"`
	Compress     string `enum:",zstd,off" default:"" help:"zstd compresses data on its way to the peer (off by default); blocks of zeros are never sent." placeholder:"ZSTD|OFF"`
	Mode         string `help:"What an acknowledged write stands for: sync (durable on both machines, the default), semisync (durable here, received there) or async (durable here)." placeholder:"MODE"`
	OnDisconnect string `help:"What writes do when the peer is lost: continue (the default: degrade, and catch up later), suspend (wait) or error (fail)." placeholder:"WORD"`
	ID           int    `default:"-1" help:"The N of /dev/ublkbN; -1 takes the first that is free."`
	Bypass       *int   `help:"MiB of a sequential run after which further writes go straight to the disk, when there is no peer; 0: never (default 4, and never on a disk with an arm)." placeholder:"MIB"`
	Queues       int    `help:"Hardware queues of the device, 1 to 8, and no more than CPUs (default 1)." placeholder:"N"`
	WriteCache   *bool  `negatable:"" help:"Acknowledge writes from RAM, as a disk with a volatile cache does: they are safe once flushed. A killed server loses none of them, a power cut what was not flushed."`
	AssumeClean  bool   `help:"Copy nothing to a new peer: its disk is known to hold the same bytes as this one now. Nothing is compared."`
	DegradedOK   bool   `name:"degraded-ok" help:"Begin although the peer cannot be reached."`
	StartAlone   bool   `help:"Serve although the peer cannot be asked whether it has newer writes."`
}

// Run checks, pairs, starts the supervisor, and returns when the device is live.
func (a *AddCmd) Run(cli *CLI) error {
	q, err := a.request(volume.Primary)
	if err != nil {
		return err
	}
	if a.Mode != "" {
		m, err := mirror.ParseMode(a.Mode)
		if err != nil {
			return volume.Usagef("%v", err)
		}
		q.Mode = m.String()
	}
	var addrs []string
	if a.Remote != "" {
		if addrs, err = link.ParseAddresses(a.Remote); err != nil {
			return volume.Usagef("--remote: %v", err)
		}
		a.Remote = strings.Join(addrs, ",")
	}
	if a.RateLimit != "" {
		n, err := volume.ParseRate(a.RateLimit)
		if err != nil {
			return volume.Usagef("--rate-limit %v", err)
		}
		q.RateLimit = &n
	}
	if a.Compress != "" {
		c, err := volume.ParseCompress(a.Compress)
		if err != nil {
			return volume.Usagef("--compress %v", err)
		}
		q.Compress = &c
	}
	if a.AssumeClean && a.Remote == "" {
		return volume.Usagef("--assume-clean is about the peer's disk: it needs --remote")
	}
	if a.Pair != "" && a.Remote == "" {
		return volume.Usagef("--pair needs --remote")
	}
	if _, err := mirror.ParseOnDisconnect(a.OnDisconnect); err != nil {
		return volume.Usagef("--%v", err)
	}
	q.OnDisconnect = a.OnDisconnect
	if a.Queues < 0 || a.Queues > ublk.MaxQueues {
		return volume.Usagef("--queues %d: 1 to %d", a.Queues, ublk.MaxQueues)
	}
	if a.Bypass != nil {
		n, err := volume.ParseBypass(*a.Bypass)
		if err != nil {
			return volume.Usagef("--bypass %v", err)
		}
		q.BypassMiB = &n
	}
	q.Queues, q.AssumeClean = a.Queues, a.AssumeClean
	q.Remote, q.DeviceID, q.DegradedOK, q.WriteCache = a.Remote, a.ID, a.DegradedOK, a.WriteCache
	if err := needRoot(); err != nil {
		return err
	}
	if q.PeerKey, err = a.pair(addrs); err != nil {
		return err
	}
	p, err := volume.Prepare(q)
	if err != nil {
		return err
	}
	defer p.Close()
	return start(cli, p, serving{StartAlone: a.StartAlone, AcceptDisk: a.AcceptDisk, AcceptLog: a.AcceptLog}, a.Foreground)
}

// pair exchanges keys with the peer, once, and gives its key's fingerprint.
func (a *AddCmd) pair(addrs []string) (peer string, err error) {
	if a.Pair == "" {
		return "", nil
	}
	token := a.Pair
	if token == "-" {
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil && line == "" {
			return "", fmt.Errorf("--pair -: read the token: %w", err)
		}
		token = line
	}
	key, trust, err := volume.Identity()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if peer, err = link.Pair(ctx, addrs, strings.TrimSpace(token), key, trust, a.Remote); err != nil {
		return "", fmt.Errorf("pair with %s: %w", a.Remote, err)
	}
	return peer, nil
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this needs root: it opens disks and talks to the kernel's block driver")
	}
	return nil
}

// ServeCmd holds the second copy.
type ServeCmd struct {
	making
	Listen        string `help:"Where the primary connects to, [HOST]:PORT." placeholder:"ADDR"`
	DiscardMyData bool   `help:"After both sides wrote: give up what only this one has, and take the primary's copy. The log's part of it is kept in the state directory."`
}

// Run checks, starts the supervisor, and returns when the copy listens.
func (s *ServeCmd) Run(cli *CLI) error {
	q, err := s.request(volume.Secondary)
	if err != nil {
		return err
	}
	q.Listen = s.Listen
	if s.Listen == "" && s.Disk != "" && s.Name == "" {
		return volume.Usagef("say with --listen where the primary connects to, for example --listen :7789")
	}
	if s.Listen != "" && !strings.Contains(s.Listen, ":") {
		return volume.Usagef("--listen %s: want [HOST]:PORT", s.Listen)
	}
	if err := volume.CheckPlaces(); err != nil { // all that a secondary needs, with its files
		return err
	}
	p, err := volume.Prepare(q)
	if err != nil {
		return err
	}
	defer p.Close()
	return start(cli, p, serving{AcceptDisk: s.AcceptDisk, AcceptLog: s.AcceptLog, Discard: s.DiscardMyData}, s.Foreground)
}

// interrupted is a context that ^C and SIGTERM end.
func interrupted() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
