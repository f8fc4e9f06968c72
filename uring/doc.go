// Package uring runs io_uring rings on golang.org/x/sys/unix, and the one-thread loop that owns a stack of devices.
//
// Names are liburing's and the kernel's (include/uapi/linux/io_uring.h). A Ring is not safe for
// concurrent use; with SINGLE_ISSUER it belongs to the thread that made it. Memory that an entry
// points to must lie outside the Go heap or be kept alive by the caller until the completion.
package uring
