// Package control is the control API of one volume's server: HTTP and JSON over a unix socket
// that only root (or the server's own user) may use.
package control
