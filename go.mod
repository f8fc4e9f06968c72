module github.com/robib-ublk/robib

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/pawelgaczynski/giouring v0.0.0-20230826085535-69588b89acb9
	golang.org/x/sys v0.50.0
)

require github.com/cespare/xxhash/v2 v2.3.0

require github.com/klauspost/compress v1.20.4

require github.com/cilium/ebpf v0.22.0
