package uring

import "structs"

// SQE is one submission entry (struct io_uring_sqe), 64 bytes.
type SQE struct {
	_           structs.HostLayout
	Opcode      uint8
	Flags       uint8
	Ioprio      uint16
	FD          int32
	Off         uint64 // also addr2, cmd_op
	Addr        uint64 // also splice_off_in
	Len         uint32
	OpFlags     uint32 // rw_flags, fsync_flags, timeout_flags, …
	UserData    uint64
	BufIndex    uint16 // also buf_group
	Personality uint16
	SpliceFDIn  int32 // also file_index
	Addr3       uint64
	pad2        uint64
}

// CQE is one completion entry (struct io_uring_cqe), 16 bytes.
type CQE struct {
	_        structs.HostLayout
	UserData uint64
	Res      int32
	Flags    uint32
}

type sqOffsets struct {
	_                                                               structs.HostLayout
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type cqOffsets struct {
	_                                                               structs.HostLayout
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

type params struct {
	_                                                                      structs.HostLayout
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sqOff                                                                  sqOffsets
	cqOff                                                                  cqOffsets
}

type getEventsArg struct {
	_                      structs.HostLayout
	sigmask                uint64
	sigmaskSize, minWaitUs uint32
	ts                     uint64
}

// Timespec is struct __kernel_timespec.
type Timespec struct {
	_         structs.HostLayout
	Sec, Nsec int64
}

type rsrcUpdate struct { // struct io_uring_rsrc_update, also for IORING_REGISTER_RING_FDS
	_      structs.HostLayout
	offset uint32
	resv   uint32
	data   uint64
}

type rsrcRegister struct { // struct io_uring_rsrc_register
	_          structs.HostLayout
	nr, flags  uint32
	resv2      uint64
	data, tags uint64
}

type probeOp struct {
	_        structs.HostLayout
	op, resv uint8
	flags    uint16
	resv2    uint32
}

type probe struct {
	_      structs.HostLayout
	lastOp uint8
	opsLen uint8
	resv   uint16
	resv2  [3]uint32
	ops    [256]probeOp
}

// Operations (enum io_uring_op) that a layer calls.
const (
	OpNop           = 0
	OpFsync         = 3
	OpReadFixed     = 4
	OpWriteFixed    = 5
	OpPollAdd       = 6
	OpSendmsg       = 9
	OpRecvmsg       = 10
	OpTimeout       = 11
	OpTimeoutRemove = 12
	OpAsyncCancel   = 14
	OpFallocate     = 17
	OpRead          = 22
	OpWrite         = 23
	OpSend          = 26
	OpRecv          = 27
	OpMsgRing       = 40
	OpURingCmd      = 46
)

// SQE flags (IOSQE_*).
const (
	FixedFile      = 1 << 0
	CQESkipSuccess = 1 << 6
)

// CQE flags (IORING_CQE_F_*).
const (
	CQEBuffer       = 1 << 0
	CQEMore         = 1 << 1
	CQESockNonempty = 1 << 2
)

// Flags of single operations.
const (
	FsyncDatasync    = 1 << 0 // IORING_FSYNC_DATASYNC
	TimeoutAbs       = 1 << 0 // IORING_TIMEOUT_ABS
	TimeoutMultishot = 1 << 6 // IORING_TIMEOUT_MULTISHOT
	RecvPollFirst    = 1 << 0 // IORING_RECVSEND_POLL_FIRST, in ioprio
	RWFDSync         = 2      // RWF_DSYNC of pwritev2(2)
	CancelAll        = 1 << 0 // IORING_ASYNC_CANCEL_ALL
	CancelFD         = 1 << 1 // IORING_ASYNC_CANCEL_FD
	CancelAny        = 1 << 2 // IORING_ASYNC_CANCEL_ANY
	CancelFDFixed    = 1 << 3 // IORING_ASYNC_CANCEL_FD_FIXED
)

// Set-up flags (IORING_SETUP_*).
const (
	setupCQSize       = 1 << 3
	setupClamp        = 1 << 4
	setupSubmitAll    = 1 << 7
	setupCoopTaskrun  = 1 << 8
	setupSQE128       = 1 << 10
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13
	setupNoSQArray    = 1 << 16
)

// Feature flags (IORING_FEAT_*).
const (
	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featExtArg     = 1 << 8
)

// Enter flags (IORING_ENTER_*).
const (
	enterGetEvents      = 1 << 0
	enterExtArg         = 1 << 3
	enterRegisteredRing = 1 << 4
)

// SQ ring flags (IORING_SQ_*).
const (
	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2
)

// Register operations (IORING_REGISTER_*).
const (
	registerBuffers     = 0
	unregisterBuffers   = 1
	registerFilesUpdate = 6
	registerProbe       = 8
	registerFiles2      = 13
	registerBuffers2    = 15
	registerBufUpdate   = 16
	registerRingFDs     = 20
	rsrcSparse          = 1 << 0
	opSupported         = 1 << 0
)

// mmap offsets (IORING_OFF_*).
const (
	offSQRing = 0
	offSQEs   = 0x10000000
)
