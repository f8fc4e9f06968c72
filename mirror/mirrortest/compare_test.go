package mirrortest

import (
	"bytes"
	"testing"

	"github.com/robib-ublk/robib/dcd/seglog"
	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk"
)

// seeded is a pair whose primary has written everywhere, and whose new secondary has never met it.
func seeded(t *testing.T, seed uint64) *Pair {
	p := NewTunedPair(seed, mirror.Async, t.Fatalf, nil)
	p.Net.Cut = [2]bool{true, true}
	p.Load.Discards, p.Load.Zeroes = 0, 0
	p.Load.Left = 600
	turnUntil(t, p, p.Load.Done)
	p.M[0].Cache.DestageAll(true)
	turnUntil(t, p, func() bool { return p.M[0].Cache.Dirty() == 0 })
	p.M[0].Cache.DestageAll(false)
	return p
}

// Of a copied disk only what differs is sent, in pieces, and nothing else of it is written. Without the
// feature everything is.
func TestSeedingSendsOnlyWhatDiffers(t *testing.T) {
	const piece = 4 << 10
	for _, lacks := range []uint64{0, wire.FeatureHash} {
		p := seeded(t, 3)
		defer p.Free()
		p.Net.Lacks = lacks
		image := bytes.Clone(p.M[0].Data.Bytes())
		for _, at := range []int{0, 3*piece + 700, 10 * piece, 11*piece + 5, DiskBytes - 512} {
			image[at] ^= 1
		}
		p.M[1].Data.Restore(image)
		synced, hashes, writes := int64(0), int64(0), p.M[1].Data.Writes
		p.Net.Tap = func(_ int, f *wire.Frame) {
			switch f.Kind {
			case wire.Resync:
				synced += int64(len(f.Body)) - wire.RangeBytes
			case wire.Compare, wire.Differs:
				hashes += int64(len(f.Body))
			}
		}
		p.Net.Cut = [2]bool{}
		turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
		if a, b := p.M[0].Data.Bytes(), p.M[1].Data.Bytes(); !bytes.Equal(a, b) {
			t.Error("the disks differ")
		}
		st := p.M[0].Node.Status().Resync
		t.Logf("lacks %d: %d bytes of blocks, %d of hashes and answers, %d writes; %+v", lacks, synced, hashes, p.M[1].Data.Writes-writes, st)
		want := mirror.ResyncStats{Sent: 5 * piece, Compared: DiskBytes, Skipped: DiskBytes - 5*piece}
		if lacks != 0 {
			want = mirror.ResyncStats{Sent: DiskBytes}
		} else if synced != 5*piece || p.M[1].Data.Writes-writes != 4 {
			t.Errorf("%d bytes in %d writes, want %d in 4", synced, p.M[1].Data.Writes-writes, 5*piece)
		}
		if st != want {
			t.Errorf("%+v, want %+v", st, want)
		}
		// What it holds is known, where it was not written, too: a change behind its back is noticed.
		for k, h := range p.M[1].Cache.Log().Super().Fingerprint {
			if h == 0 {
				t.Fatalf("the fingerprint lacks sector %d", k)
			}
		}
	}
}

// A disk with nothing in common costs few questions, and one that has something in common again is asked about.
func TestComparisonGivesUp(t *testing.T) {
	p := seeded(t, 4)
	defer p.Free()
	b := make([]byte, DiskBytes)
	for i := range b {
		b[i] = byte(p.W.Rand.Uint32())
	}
	p.M[1].Data.Restore(b)
	p.Net.Cut = [2]bool{}
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	if st := p.M[0].Node.Status().Resync; st.Sent != DiskBytes || st.Compared == 0 || st.Compared > DiskBytes/2 || st.Skipped != 0 {
		t.Errorf("%+v", st)
	}
}

// What the map of a peer that fell out of the log names is sent and no more, within the mark of 1.1: it is
// not asked about, for it was written.
func TestMapSyncSendsWhatIsDirty(t *testing.T) {
	p := NewTunedPair(7, mirror.Async, t.Fatalf, nil)
	defer p.Free()
	turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
	p.Crash(1)
	p.Load.Discards, p.Load.Zeroes, p.Load.Region = 0, 0, DiskBytes/2
	log := p.M[0].Cache.Log()
	for head := log.Head(); log.Head() < head+2*LogBytes; p.Turn() {
		p.Load.Left = max(p.Load.Left, 5)
	}
	turnUntil(t, p, p.Load.Done)
	sent, before := int64(0), p.M[0].Node.Status().Resync
	p.Net.Tap = func(from int, f *wire.Frame) {
		if from == 0 {
			sent += int64(len(f.Body)) + wire.HeadBytes
		}
	}
	dirty := int64(0)
	p.Start(1)
	turnUntil(t, p, func() bool {
		if p.state(0) == mirror.StateFullSync && dirty == 0 {
			dirty = log.Dirty().Bytes()
		}
		return p.state(0) == mirror.StateInSync
	})
	if m := log.Super().Marks; m&seglog.DirtyMap != 0 || dirty == 0 || dirty > DiskBytes/2+4096 {
		t.Fatalf("%d bytes are dirty, %v", dirty, m)
	}
	st := p.M[0].Node.Status().Resync
	if int64(st.Sent-before.Sent) != dirty || st.Compared != before.Compared || sent > dirty*11/10 {
		t.Errorf("%d bytes were dirty: %d sent, %+v", dirty, sent, st)
	}
	t.Logf("%d bytes were dirty, %d were sent, everything counted: %.3f", dirty, sent, float64(sent)/float64(dirty))
}

// A disk that offers to zero ranges is not made to hold the zeros of a sync.
func TestZerosOfASyncAreNotWritten(t *testing.T) {
	for _, offers := range []bool{true, false} {
		p := seeded(t, 4)
		defer p.Free()
		p.M[1].Data.SetInfo(func(i *blk.Info) { i.Discard, i.WriteZeroes = false, offers })
		b := p.M[0].Data.Bytes()
		clear(b[DiskBytes/4 : DiskBytes*3/4])
		p.M[0].Data.Restore(bytes.Clone(b))
		other := bytes.Repeat([]byte{7}, DiskBytes)
		p.M[1].Data.Restore(other)
		p.Net.Cut = [2]bool{}
		turnUntil(t, p, func() bool { return p.state(0) == mirror.StateInSync })
		if a, b := p.M[0].Data.Bytes(), p.M[1].Data.Bytes(); !bytes.Equal(a, b) {
			t.Error("the disks differ")
		}
		z, w := p.M[1].Data.Zeroings, p.M[1].Data.Writes
		t.Logf("offers %v: %d writes, %d of them zeroing", offers, w, z)
		if offers != (z >= DiskBytes/2/(16<<10)-1) || z >= w {
			t.Errorf("%d of %d writes are of zeros", z, w)
		}
	}
}
