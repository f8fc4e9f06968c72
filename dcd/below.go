package dcd

import "github.com/robib-ublk/robib/ublk/blk"

// below carries a full sync's blocks to the data disk, under the log: never while a destage
// batch is on its way there, because the two would overlap without an order, and before any
// batch that begins later, because that may hold writes that came after the block.
type below struct {
	c    *Cache
	wait blk.Queue
	out  int
	back blk.Queue
	own  []blk.Completer // by order of submission; see Below
	reqs []*blk.Request
}

// maxBelow is how many blocks of a full sync go to the disk between two destage batches.
const maxBelow = 8

// Below writes r to the data disk under the log, or reads it there, or zeroes a range that the disk offers to zero.
// The caller keeps r.Owner.
func (c *Cache) Below(r *blk.Request) {
	r.Err = 0
	c.b.wait.Push(r)
}

// pending reports whether anything given to Below has not come back.
func (b *below) pending() bool { return b.out > 0 || b.wait.Head() != nil || b.back.Head() != nil }

// Complete records that a block has reached the disk.
func (b *below) Complete(r *blk.Request) {
	b.out--
	b.back.Push(r)
}

func (b *below) kick() {
	for r := b.back.Pop(); r != nil; r = b.back.Pop() {
		b.fingerprint(r)
		r.Owner = b.take(r)
		r.Owner.Complete(r)
	}
	if b.c.d.phase != resting || b.out > 0 || b.c.m.busy {
		return
	}
	for n := 0; n < maxBelow && b.wait.Head() != nil; n++ {
		r := b.wait.Pop()
		if b.c.data == nil || b.c.dataErr != nil {
			b.c.refuse(r)
			continue
		}
		b.reqs, b.own = append(b.reqs, r), append(b.own, r.Owner)
		r.Owner = b
		b.out++
		b.c.data.Submit(r)
	}
}

// fingerprint keeps what the disk's superblock areas hold now. Until the full sync is complete
// the copy is inconsistent, and its fingerprint is not looked at.
func (b *below) fingerprint(r *blk.Request) {
	if r.Op != blk.Write && r.Op != blk.WriteZeroes || r.Err != 0 {
		return
	}
	s := b.c.log.Super()
	printsIn(r.Offset, r.Offset+r.Length, b.c.info.SizeBytes, func(k int, at int64) {
		if s.Fingerprint[k] = zeroHash; r.Op == blk.Write {
			s.Fingerprint[k] = sectorHash(r.Buf[at-r.Offset:][:blk.SectorBytes])
		}
	})
}

// take finds whose request r is.
func (b *below) take(r *blk.Request) blk.Completer {
	for i, q := range b.reqs {
		if q == r {
			o := b.own[i]
			last := len(b.reqs) - 1
			b.reqs[i], b.own[i] = b.reqs[last], b.own[last]
			b.reqs, b.own = b.reqs[:last], b.own[:last]
			return o
		}
	}
	panic("dcd: a block of a full sync came back that was never sent")
}
