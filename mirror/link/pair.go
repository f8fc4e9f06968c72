package link

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	tokenPrefix = "robib1-"
	secretBytes = 16
	tokenBytes  = sha256.Size + secretBytes
)

// Errors of pairing.
var (
	ErrToken       = errors.New("this is not a pairing token (it begins with " + tokenPrefix + ")")
	ErrTokenUsed   = errors.New("the pairing token is used up, expired or of another machine: ask for a new one (`robib-ublk key pair`)")
	ErrWrongServer = errors.New("the machine that answers is not the one the pairing token came from")
)

var encoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// oneTime derives the key that stands for a token's secret.
func oneTime(secret []byte) (*Key, error) {
	seed, err := hkdf.Key(sha256.New, secret, nil, "robib-ublk pairing key 1", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return newKey(ed25519.NewKeyFromSeed(seed))
}

// tokens are the pairing tokens that a listener has given out: each good once, until it expires.
type tokens struct {
	mu  sync.Mutex
	now func() time.Time
	out map[string]time.Time // fingerprint of the one-time key → expiry
}

func (t *tokens) new(k *Key, ttl time.Duration) (string, error) {
	b := make([]byte, 0, tokenBytes)
	h := sha256.Sum256(k.private.Public().(ed25519.PublicKey))
	b = append(b, h[:]...)
	secret := make([]byte, secretBytes)
	if _, err := rand.Read(secret); err != nil {
		return "", err
	}
	one, err := oneTime(secret)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out == nil {
		t.out = map[string]time.Time{}
	}
	t.out[one.Fingerprint()] = t.now().Add(ttl)
	return tokenPrefix + strings.ToLower(encoding.EncodeToString(append(b, secret...))), nil
}

// valid reports whether a one-time key is out and not expired; take uses it up.
func (t *tokens) valid(fp string, take bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	end, ok := t.out[fp]
	if ok && t.now().After(end) {
		delete(t.out, fp)
		ok = false
	}
	if ok && take {
		delete(t.out, fp)
	}
	return ok
}

// proofLabel is the TLS exporter that a permanent key signs, to show that it is the sender's.
const proofLabel = "EXPORTER-robib-ublk-pair"

// pairTimeout bounds the exchange of keys.
const pairTimeout = 15 * time.Second

// Pair exchanges permanent keys with the machine that gave token out, and pins its key under
// name. The token is used up. addrs are tried like a Dialer's.
func Pair(ctx context.Context, addrs []string, token string, key *Key, trust *Trust, name string) (peer string, err error) {
	raw, err := encoding.DecodeString(strings.ToUpper(strings.TrimPrefix(token, tokenPrefix)))
	if err != nil || len(raw) != tokenBytes || !strings.HasPrefix(token, tokenPrefix) {
		return "", ErrToken
	}
	want := fingerprintPrefix + fmt.Sprintf("%x", raw[:sha256.Size])
	one, err := oneTime(raw[sha256.Size:])
	if err != nil {
		return "", err
	}
	err = dialAny(ctx, addrs, func(_ string, c *net.TCPConn) error {
		defer c.Close()
		return exchange(ctx, c, want, one, key)
	})
	if err != nil {
		return "", err
	}
	return want, trust.Add(name, want)
}

// exchange is the client's side of pairing, over one connection.
func exchange(ctx context.Context, c net.Conn, want string, one, key *Key) error {
	c.SetDeadline(time.Now().Add(pairTimeout))
	t := tls.Client(c, config(one, []string{protoPair}, func(fp string, _ tls.ConnectionState) error {
		if fp != want {
			return ErrWrongServer
		}
		return nil
	}))
	if err := t.HandshakeContext(ctx); err != nil {
		return pairError(err)
	}
	// Our permanent key, with a signature over this very session.
	s := t.ConnectionState()
	proof, err := s.ExportKeyingMaterial(proofLabel, nil, 32)
	if err != nil {
		return err
	}
	pub := key.private.Public().(ed25519.PublicKey)
	if _, err := t.Write(append(append([]byte(nil), pub...), ed25519.Sign(key.private, proof)...)); err != nil {
		return pairError(err)
	}
	var ok [1]byte
	if _, err := io.ReadFull(t, ok[:]); err != nil {
		return pairError(err)
	}
	if ok[0] != 1 {
		return ErrTokenUsed
	}
	return nil
}

// pairError makes of a closed connection what it means here.
func pairError(err error) error {
	var op *net.OpError
	if errors.Is(err, ErrWrongServer) {
		return ErrWrongServer
	}
	if errors.Is(err, io.EOF) || errors.As(err, &op) && op.Op == "remote error" {
		return ErrTokenUsed
	}
	return err
}

// answerPair is the server's side: the client has the one-time key; its permanent one is pinned, and paired told.
func answerPair(t *tls.Conn, all *tokens, trust *Trust, paired func(fp string)) error {
	one, _, err := peerKey(t.ConnectionState())
	if err != nil {
		return err
	}
	var b [ed25519.PublicKeySize + ed25519.SignatureSize]byte
	if _, err := io.ReadFull(t, b[:]); err != nil {
		return err
	}
	pub := ed25519.PublicKey(b[:ed25519.PublicKeySize])
	s := t.ConnectionState()
	proof, err := s.ExportKeyingMaterial(proofLabel, nil, 32)
	if err != nil {
		return err
	}
	if !ed25519.Verify(pub, proof, b[ed25519.PublicKeySize:]) {
		return errors.New("pairing: the proof of the permanent key is wrong")
	}
	if !all.valid(one, true) {
		t.Write([]byte{0})
		return ErrTokenUsed
	}
	if err := trust.Add(t.RemoteAddr().String(), fingerprint(pub)); err != nil {
		return err
	}
	paired(fingerprint(pub))
	_, err = t.Write([]byte{1})
	return errors.Join(err, t.CloseWrite())
}
