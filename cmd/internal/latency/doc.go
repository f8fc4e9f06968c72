// Package latency takes and shows what the probes of a block device counted: tables, histograms, slow requests and those in flight, as text and as JSON.
//
// A Source is where it comes from: probes of this process (Open) or the server of a volume (Ask).
// Both give Snapshots; the difference of two is what a Report is made of. JSON keys are snake_case
// and end in their unit; ns are of CLOCK_MONOTONIC where they are moments.
package latency
