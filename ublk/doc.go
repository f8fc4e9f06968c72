// Package ublk is the user side of Linux's ublk driver: it makes /dev/ublkbN and serves its requests from a blk.Device.
//
// A Control gives commands to /dev/ublk-control, each with a deadline of its own, because the
// kernel has none. A Queue lives on the loop that owns the device's stack; it fetches requests,
// submits them below, and commits what completed, one waiting system call per batch.
package ublk
