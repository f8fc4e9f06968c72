// Package wire is the wire codec of the mirror: frames and messages, bytes only. Protocol version 1.
package wire
