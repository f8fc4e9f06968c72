// Package volume runs one volume: it opens the real disks, rings, sockets and the ublk device
// around a mirror.Node, and refuses to touch anything that was not given by an explicit word.
package volume
