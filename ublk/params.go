package ublk

import (
	"fmt"
	"math/bits"

	"github.com/robib-ublk/robib/ublk/blk"
)

// discardMaxSectors bounds one discard; the kernel splits longer ones.
const discardMaxSectors = 1 << 22 // 2 GiB

// paramsOf translates what a device is into what the driver advertises. FUA counts only with a
// volatile cache, and without one no flush ever comes.
func paramsOf(i blk.Info, maxIO int) (params, error) {
	if i.SizeBytes < 4096 {
		return params{}, fmt.Errorf("ublk: a device of %d bytes is too small", i.SizeBytes)
	}
	logical, physical := i.LogicalBytes, max(i.PhysicalBytes, i.LogicalBytes)
	if logical < blk.SectorBytes || logical > 4096 || logical&(logical-1) != 0 || physical&(physical-1) != 0 || physical > 1<<20 {
		return params{}, fmt.Errorf("ublk: blocks of %d bytes (physical %d): a power of two from 512 to 4096", logical, physical)
	}
	shift := func(n int32) uint8 { return uint8(bits.TrailingZeros32(uint32(n))) }
	p := params{types: paramBasic}
	p.basic = paramsBasic{
		logicalShift: shift(logical), physicalShift: shift(min(physical, 4096)), ioMinShift: shift(min(physical, 4096)), ioOptShift: shift(min(physical, 4096)),
		maxSectors: uint32(maxIO / blk.SectorBytes), devSectors: uint64(i.SizeBytes / int64(logical) * int64(logical) / blk.SectorBytes),
	}
	if i.ReadOnly {
		p.basic.attrs |= attrReadOnly
	}
	if i.Rotational {
		p.basic.attrs |= attrRotational
	}
	if i.VolatileCache {
		p.basic.attrs |= attrVolatileCache | attrFUA
	}
	if i.Discard || i.WriteZeroes {
		p.types |= paramDiscard
		p.discard = paramsDiscard{granularity: uint32(logical), maxSegments: 1}
		if i.Discard {
			p.discard.maxSectors = discardMaxSectors
		}
		if i.WriteZeroes {
			p.discard.maxZeroSectors = discardMaxSectors
		}
	}
	p.length = uint32(len(bytesOf(p)))
	return p, nil
}
