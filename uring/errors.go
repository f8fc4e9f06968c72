package uring

import "fmt"

// FeatureError says that this kernel lacks something a ring needs.
type FeatureError struct {
	Feature string
	Since   string // the first kernel that has it
	Err     error  // what the kernel answered
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("io_uring: this kernel lacks %s (since Linux %s): %v", e.Feature, e.Since, e.Err)
}

func (e *FeatureError) Unwrap() error { return e.Err }
