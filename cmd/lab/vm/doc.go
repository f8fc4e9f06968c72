// Package vm boots a Debian kernel in QEMU with an initramfs made here and runs a command in it.
package vm
