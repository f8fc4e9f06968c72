package uring

// Each Prep fills an entry that Get returned; UserData and Flags are the caller's to set.
// With Flags&FixedFile, fd is a slot of the fixed-file table.

// PrepNop does nothing.
func (e *SQE) PrepNop() { e.Opcode, e.FD = OpNop, -1 }

func (e *SQE) rw(op uint8, fd int32, b []byte, off uint64) {
	e.Opcode, e.FD, e.Off, e.Addr, e.Len = op, fd, off, addr(b), uint32(len(b))
}

// PrepRead reads into b at off.
func (e *SQE) PrepRead(fd int32, b []byte, off uint64) { e.rw(OpRead, fd, b, off) }

// PrepWrite writes b at off; RWFDSync in OpFlags makes it durable.
func (e *SQE) PrepWrite(fd int32, b []byte, off uint64) { e.rw(OpWrite, fd, b, off) }

// PrepReadFixed reads into b, which lies in registered buffer index.
func (e *SQE) PrepReadFixed(fd int32, b []byte, off uint64, index uint16) {
	e.rw(OpReadFixed, fd, b, off)
	e.BufIndex = index
}

// PrepWriteFixed writes b, which lies in registered buffer index.
func (e *SQE) PrepWriteFixed(fd int32, b []byte, off uint64, index uint16) {
	e.rw(OpWriteFixed, fd, b, off)
	e.BufIndex = index
}

// PrepFsync flushes fd; FsyncDatasync in flags leaves metadata out.
func (e *SQE) PrepFsync(fd int32, flags uint32) { e.Opcode, e.FD, e.OpFlags = OpFsync, fd, flags }

// PrepFallocate is fallocate(2).
func (e *SQE) PrepFallocate(fd int32, mode uint32, off, length uint64) {
	e.Opcode, e.FD, e.Len, e.Off, e.Addr = OpFallocate, fd, mode, off, length
}

// PrepSend sends b on a socket with MSG_ flags.
func (e *SQE) PrepSend(fd int32, b []byte, flags uint32) {
	e.rw(OpSend, fd, b, 0)
	e.OpFlags = flags
}

// PrepRecv receives into b; RecvPollFirst in Ioprio waits for data before it tries.
func (e *SQE) PrepRecv(fd int32, b []byte, flags uint32) {
	e.rw(OpRecv, fd, b, 0)
	e.OpFlags = flags
}

// PrepTimeoutRemove ends the timeout with user data id.
func (e *SQE) PrepTimeoutRemove(id uint64, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.OpFlags = OpTimeoutRemove, -1, id, flags
}

// PrepCancel asks for the operation with user data id to be cancelled.
func (e *SQE) PrepCancel(id uint64, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.OpFlags = OpAsyncCancel, -1, id, flags
}

// PrepCancelFD asks for the operations on fd to be cancelled (flags: CancelFD, CancelAll …).
func (e *SQE) PrepCancelFD(fd int32, flags uint32) {
	e.Opcode, e.FD, e.OpFlags = OpAsyncCancel, fd, flags|CancelFD
}

// PrepPollAdd waits until fd is ready for the poll(2) events in mask.
func (e *SQE) PrepPollAdd(fd int32, mask uint32) { e.Opcode, e.FD, e.OpFlags = OpPollAdd, fd, mask }

// PrepMsgRing posts a completion {UserData: data, Res: res} to the ring with descriptor fd.
func (e *SQE) PrepMsgRing(fd int32, res uint32, data uint64, flags uint32) {
	e.Opcode, e.FD, e.Len, e.Off, e.OpFlags = OpMsgRing, fd, res, data, flags
}

// PrepURingCmd gives command op to the driver behind fd; Ring.Cmd is its argument area.
func (e *SQE) PrepURingCmd(fd int32, op uint32) { e.Opcode, e.FD, e.Off = OpURingCmd, fd, uint64(op) }
