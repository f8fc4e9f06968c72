package filedev

import "errors"

// What OpenExclusive and Open refuse; test with errors.Is.
var (
	ErrInUse     = errors.New("in use")
	ErrReadOnly  = errors.New("read-only: a volume must be able to write it")
	ErrZoned     = errors.New("zoned (SMR): blocks cannot be written in place there")
	ErrNotDirect = errors.New("not usable with direct I/O")
	ErrNotDisk   = errors.New("neither a block device nor a regular file")
)
