// Command lab is the development runner: it boots Debian kernels in QEMU to demonstrate and test robib-ublk on any Linux machine.
package main
