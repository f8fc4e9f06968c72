// Package e2e tests the real binary on a real kernel: fio, file systems, kills, cut links, two nodes in one VM.
package e2e
