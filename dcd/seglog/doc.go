// Package seglog is the segment log: one total order of writes on one log device, and the four jobs' readers of it.
//
// # Crash assumptions
//
// A sector of 512 bytes is written whole or not at all. A write is durable when it completed
// with FUA, or a flush that began after its completion has completed; until then any subset of
// its sectors may remain after a power cut. Rot and misdirected writes are detected by checksums
// and by the hash chain, never assumed away.
//
// # Recovery, step by step
//
// The newer superblock slot with a good checksum gives the recovery start. From there the chain
// is followed: a segment is next when its header's checksum, volume, LSN and previous hash fit
// and all its payload checksums do. The first that does not is a hole. A hole is a torn tail,
// and cut, unless a valid segment behind it, or the superblock, declares it durable: then it is
// corruption, and the log is refused. One exception, where the superblock says Merges: the last append of a secondary
// in async mode, at most 128 KiB, may hold segments that declare one another durable, for so they were at the primary;
// there a hole is a torn tail. A read error is never a hole. A cut segment cannot come
// back: what is written next has another incarnation, so another hash.
package seglog
