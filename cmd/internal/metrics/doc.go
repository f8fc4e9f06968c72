// Package metrics exports what one volume's server counts to Prometheus: a collector, the conversion of its histograms, and a small HTTP server that nothing waits for.
//
// Names begin with robib_ and carry the label volume. Everything is read when it is scraped; between
// scrapes nothing runs. Histograms are given in both formats: native ones to whom asks for
// protobuf, classic ones to curl.
package metrics
