// Package benchrun measures block devices inside the lab's guest, where an instruction is a nanosecond, and prints what it measured as tables.
package benchrun
