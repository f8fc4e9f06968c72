package link

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
)

// Application protocols: a session, and the exchange of keys before the first one.
const (
	protoSession = "robib/1"
	protoPlain   = "robib-plain/1"   // a session that goes on without encryption after the handshake
	protoControl = "robib-control/1" // a session's control connection, encrypted in any case
	protoPair    = "robib-pair/1"
)

// session is the one protocol that an end speaks: both must want the same.
func session(plain bool) string {
	if plain {
		return protoPlain
	}
	return protoSession
}

// ErrEncryption says that the two ends disagree about encryption.
var ErrEncryption = errors.New("the peer refuses this end's choice of encryption: say --encrypt=off on both sides, or on neither")

// handshakeLimit bounds a handshake, so that half-open connections end by themselves.
const handshakeLimit = ConnectLimit

// ErrUntrusted says that the other end's key is not pinned here.
var ErrUntrusted = errors.New("the peer's key is not trusted here (pair the machines, or `robib-ublk key trust`)")

// ErrOtherPeer says that the other end's key is trusted, and belongs to another machine than the one that was expected.
var ErrOtherPeer = errors.New("that machine is trusted here, but it is not this volume's peer: if it is to be, pair the two, or `robib-ublk set NAME peer-key=any`")

// peerKey is the fingerprint of the other end's key.
func peerKey(s tls.ConnectionState) (string, ed25519.PublicKey, error) {
	if len(s.PeerCertificates) == 0 {
		return "", nil, errors.New("the peer sent no certificate")
	}
	pub, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return "", nil, errors.New("the peer's key is not an Ed25519 key")
	}
	return fingerprint(pub), pub, nil
}

// config is TLS 1.3 only, both ends with a key, no tickets; check decides on the other end's
// key and certificate.
func config(k *Key, proto []string, check func(fp string, s tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.certificate(), nil },
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.certificate(), nil },
		MinVersion:                  tls.VersionTLS13,
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // VerifyConnection does it, by key
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		NextProtos:                  proto,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.Version != tls.VersionTLS13 {
				return errors.New("TLS 1.3 only")
			}
			if s.NegotiatedProtocol == "" {
				return fmt.Errorf("the peer does not speak %v", proto)
			}
			fp, _, err := peerKey(s)
			if err != nil {
				return err
			}
			return check(fp, s)
		},
	}
}

// pinned accepts keys that are trusted: themselves, or by the word of an authority.
func pinned(t *Trust) func(string, tls.ConnectionState) error {
	return func(fp string, s tls.ConnectionState) error {
		if t.Has(fp) {
			return nil
		}
		return t.vouched(s.PeerCertificates)
	}
}
