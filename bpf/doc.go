// Package bpf will hold the latency probes; it is empty until they are built.
package bpf
