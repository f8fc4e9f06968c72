// Package picture draws how the latency of a block device's requests changed: a heat map of durations over time, and what the stages took of the mean.
package picture
