// Package bpf holds the latency probes: eBPF programs that time every request of a block device, stage by stage, joined with the stamps of the server that serves it.
//
// The probes attach to the kernel's block tracepoints (and to io_uring's, for the moment at which a
// request reaches the server's ring) and need CAP_BPF and CAP_PERFMON. Nothing here costs a device
// that is not traced more than one look-up per event, and nothing at all once Probes are closed.
// All times are ns of CLOCK_MONOTONIC.
package bpf
