// Package supervise keeps one volume's server process alive: it holds the exclusive opens of
// disk and log, knows when a dead server's last I/O has ended, and starts the next one.
//
// A killed process is reaped at once, but writes it gave to the kernel may land seconds later.
// The write end of a pipe therefore lives only in the registered files of every ring that does
// disk I/O: end of file on the read end proves that the rings and all their I/O are gone. A new
// server is started after that and after the process is reaped, never before.
package supervise
