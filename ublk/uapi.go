package ublk

import "structs"

// Commands of /dev/ublk-control (include/uapi/linux/ublk_cmd.h), ioctl-encoded: 'u', 32-byte struct.
const (
	cmdGetQueueAffinity = 2<<30 | 32<<16 | 'u'<<8 | 0x01
	cmdGetDevInfo       = 2<<30 | 32<<16 | 'u'<<8 | 0x02
	cmdGetFeatures      = 2<<30 | 32<<16 | 'u'<<8 | 0x13
	cmdGetParams        = 2<<30 | 32<<16 | 'u'<<8 | 0x09
	cmdAdd              = 3<<30 | 32<<16 | 'u'<<8 | 0x04
	cmdDel              = 3<<30 | 32<<16 | 'u'<<8 | 0x05
	cmdStart            = 3<<30 | 32<<16 | 'u'<<8 | 0x06
	cmdStop             = 3<<30 | 32<<16 | 'u'<<8 | 0x07
	cmdSetParams        = 3<<30 | 32<<16 | 'u'<<8 | 0x08
	cmdStartRecovery    = 3<<30 | 32<<16 | 'u'<<8 | 0x10
	cmdEndRecovery      = 3<<30 | 32<<16 | 'u'<<8 | 0x11
)

// I/O commands: 16-byte struct.
const (
	ioFetch  = 3<<30 | 16<<16 | 'u'<<8 | 0x20
	ioCommit = 3<<30 | 16<<16 | 'u'<<8 | 0x21
)

// Feature flags (UBLK_F_*).
const (
	FeatSupportZeroCopy = 1 << 0
	FeatURingCmdInTask  = 1 << 1
	FeatNeedGetData     = 1 << 2
	FeatUserRecovery    = 1 << 3
	FeatRecoveryReissue = 1 << 4
	FeatUnprivileged    = 1 << 5
	FeatIoctlEncode     = 1 << 6
	FeatUserCopy        = 1 << 7
	FeatZoned           = 1 << 8
	FeatRecoveryFailIO  = 1 << 9
	FeatUpdateSize      = 1 << 10
	FeatAutoBufReg      = 1 << 11
	FeatQuiesce         = 1 << 12
	FeatPerIODaemon     = 1 << 13
	FeatBufRegOffDaemon = 1 << 14
	FeatBatchIO         = 1 << 15
	FeatIntegrity       = 1 << 16
	FeatSafeStop        = 1 << 17
	FeatNoAutoPartScan  = 1 << 18
	FeatShmemZeroCopy   = 1 << 19
	FeatIODescSize      = 1 << 20
)

// Device states (UBLK_S_DEV_*).
const (
	StateDead     = 0
	StateLive     = 1
	StateQuiesced = 2
	StateFailIO   = 3
)

// ctrlCmd is struct ublksrv_ctrl_cmd, 32 bytes, in the command area of a 128-byte entry.
type ctrlCmd struct {
	_          structs.HostLayout
	devID      uint32
	queueID    uint16
	length     uint16
	addr       uint64
	data       uint64
	devPathLen uint16
	pad        uint16
	resv       uint32
}

// devInfo is struct ublksrv_ctrl_dev_info, 64 bytes.
type devInfo struct {
	_             structs.HostLayout
	nrHWQueues    uint16
	queueDepth    uint16
	state         uint16
	ioDescSize    uint16 // Linux 7.3; padding before
	maxIOBufBytes uint32
	devID         uint32
	ublksrvPID    int32
	pad1          uint32
	flags         uint64
	ublksrvFlags  uint64
	ownerUID      uint32
	ownerGID      uint32
	reserved1     uint64
	reserved2     uint64
}

// Parameter types and attributes (UBLK_PARAM_TYPE_*, UBLK_ATTR_*).
const (
	paramBasic   = 1 << 0
	paramDiscard = 1 << 1

	attrReadOnly      = 1 << 0
	attrRotational    = 1 << 1
	attrVolatileCache = 1 << 2
	attrFUA           = 1 << 3
)

// params is struct ublk_params as far as we fill it: the kernel takes a shorter one.
type params struct {
	_       structs.HostLayout
	length  uint32
	types   uint32
	basic   paramsBasic
	discard paramsDiscard
}

type paramsBasic struct { // struct ublk_param_basic
	_                                                   structs.HostLayout
	attrs                                               uint32
	logicalShift, physicalShift, ioOptShift, ioMinShift uint8
	maxSectors, chunkSectors                            uint32
	devSectors                                          uint64
	virtBoundaryMask                                    uint64
}

type paramsDiscard struct { // struct ublk_param_discard
	_                                                  structs.HostLayout
	alignment, granularity, maxSectors, maxZeroSectors uint32
	maxSegments, reserved                              uint16
	pad                                                uint32
}

// ioDesc is struct ublksrv_io_desc, 24 bytes; the stride between two may be larger.
type ioDesc struct {
	_           structs.HostLayout
	opFlags     uint32
	nrSectors   uint32
	startSector uint64
	addr        uint64
}

const descBytes = 24

// ioCmd is struct ublksrv_io_cmd, 16 bytes, in the command area of a 64-byte entry.
type ioCmd struct {
	_      structs.HostLayout
	qid    uint16
	tag    uint16
	result int32
	addr   uint64
}

// Operations and flags in ioDesc.opFlags (UBLK_IO_OP_*, UBLK_IO_F_*).
const (
	opRead        = 0
	opWrite       = 1
	opFlush       = 2
	opDiscard     = 3
	opWriteSame   = 4
	opWriteZeroes = 5

	flagFUA     = 1 << 13
	flagNoUnmap = 1 << 15
)

// descOffset is where queue qid's descriptors are mapped: its stride is fixed, whatever the depth.
func descOffset(qid int) int64 { return int64(qid) * 98304 }
