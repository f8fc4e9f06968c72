package mirrortest

import (
	"fmt"

	"github.com/robib-ublk/robib/dcd"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/ublk/blk"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

// genTurns is how many turns pass between two looks at a copy while a sync is open.
const genTurns = 40

// nowhere is the network of a machine whose peer is lost.
type nowhere struct{}

func (nowhere) Paths() int                       { return 1 }
func (nowhere) Dial()                            {}
func (nowhere) DialControl()                     {}
func (nowhere) Next() (mirror.Conn, bool, error) { return nil, false, nil }

// AsPromoted is what machine i would hold if it lost its power now and was promoted then; nil: it would say
// that it is inconsistent. The pair goes on as if nothing had been.
func (p *Pair) AsPromoted(i int) (image []byte, err error) {
	w := blktest.NewWorld(uint64(p.W.Now))
	m := p.M[i]
	c, err := dcd.Open(dcd.Options{Data: m.Data.CopyCrashed(w), Log: m.Log.CopyCrashed(w), Incarnation: 1, DestageBytes: 32 << 10, IdleNanos: 300_000, Follow: true}, w.Drive)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	n, err := mirror.New(mirror.Options{Cache: c, Net: nowhere{}, Mode: p.Mode, Drive: w.Drive, Random: w.Rand.Uint64})
	if err != nil {
		return nil, err
	}
	defer n.Close()
	for range w.Rand.IntN(60) {
		n.Kick(w.Time())
		w.Step()
	}
	if s := n.Status(); s.Inconsistent() {
		return nil, nil
	}
	if err := n.Promote(false); err != nil {
		return nil, err
	}
	drive := func() (blk.Instant, error) {
		w.Turn(n.Kick(w.Time()))
		return w.Time(), nil
	}
	if image, err = blktest.ReadAll(n.Device(), drive); err != nil {
		return nil, err
	}
	for n.Kick(w.Time()); c.Busy(); n.Kick(w.Time()) {
		if !w.Step() {
			break
		}
	}
	return image, nil
}

// generation checks, while a sync is open, that the copy is a prefix of what the primary sealed, whenever the
// power might be cut, or says that it is inconsistent.
func (p *Pair) generation() error {
	m := p.M[1-p.At]
	if m.Node == nil || m.Node.Status().Primary || p.M[p.At].Node == nil || !p.M[p.At].Node.Status().Primary || m.Cache.Log().Super().StageBytes == 0 && m.Node.Status().SyncKind == "" || p.W.Steps%genTurns != 0 {
		return nil
	}
	image, err := p.AsPromoted(1 - p.At)
	switch {
	case err != nil:
		return fmt.Errorf("machine %d, if it was promoted now: %w", m.Num, err)
	case image == nil:
		p.Opened[0]++
		return nil
	}
	p.Opened[1]++
	if _, _, err := p.Prefix(image[:DiskBytes]); err != nil {
		return fmt.Errorf("machine %d, if it was promoted now: %w", m.Num, err)
	}
	return nil
}
