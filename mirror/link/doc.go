// Package link is the mirror's real network: TLS 1.3 between keys that are pinned or that an authority has signed, pairing by a one-time token, connections on the loop's ring.
//
// Goroutines only dial, accept and shake hands; then the socket is handed over as a blocking
// descriptor and never touched by them again. From there crypto/tls runs synchronously on the
// loop, over memory. A session has a data connection, in which acknowledgements have room of their own, so
// that they never wait behind data for a place, and a small control connection over the same path.
package link
