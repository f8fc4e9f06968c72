// Package dcd is the disk caching disk: a log device and a data disk as one block device.
//
// A write is copied into a RAM segment, acknowledged when the segment's append to the log is
// durable, and destaged to the data disk later, in sorted batches. A read merges RAM, log and
// data disk per 512-byte sector. The data disk's layout never changes. Whoever replicates reads
// the log beside the cache and moves two numbers: AckLimit and DestageLimit.
package dcd
