package uring

import "unsafe"

// The kernel's sizes and offsets; a difference does not compile.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(SQE{})-64]
	_ = [1]struct{}{}[unsafe.Sizeof(CQE{})-16]
	_ = [1]struct{}{}[unsafe.Sizeof(params{})-120]
	_ = [1]struct{}{}[unsafe.Sizeof(getEventsArg{})-24]
	_ = [1]struct{}{}[unsafe.Sizeof(Timespec{})-16]
	_ = [1]struct{}{}[unsafe.Sizeof(rsrcUpdate{})-16]
	_ = [1]struct{}{}[unsafe.Sizeof(rsrcRegister{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(probe{})-16-256*8]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.UserData)-32]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.Addr3)-48]
	_ = [1]struct{}{}[unsafe.Offsetof(params{}.cqOff)-80]
)
