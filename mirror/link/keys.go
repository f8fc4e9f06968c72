package link

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Key is a machine's identity: an Ed25519 key and the self-signed certificate that carries it.
type Key struct {
	private ed25519.PrivateKey
	cert    tls.Certificate // signed by itself
	dir     string          // where an authority's word on it may lie; "": nowhere
}

// LoadOrCreateKey reads the key at path, PEM, 0600, and makes one where there is none.
func LoadOrCreateKey(path string) (*Key, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("key: %w", err)
		}
		// Another process may have been first: its key counts.
		b, err = os.ReadFile(path)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	p, _ := pem.Decode(b)
	if p == nil {
		return nil, fmt.Errorf("key: %s holds no PEM key", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(p.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key: %s: %w", path, err)
	}
	e, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key: %s is not an Ed25519 key", path)
	}
	key, err := newKey(e)
	if err == nil {
		key.dir = filepath.Dir(path)
	}
	return key, err
}

// writeNew makes a file that must not exist, whole or not at all.
func writeNew(path string, b []byte) error { return putFile(path, b, os.Link) }

// replaceFile writes a file, whole or not at all.
func replaceFile(path string, b []byte) error { return putFile(path, b, os.Rename) }

// putFile writes a file beside path, durably, which name then gives its name.
func putFile(path string, b []byte, name func(from, to string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return name(f.Name(), path)
}

// newKey makes the certificate of a key. It never expires: what counts is that the key is pinned.
func newKey(k ed25519.PrivateKey) (*Key, error) {
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "robib-ublk"}, NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return nil, err
	}
	return &Key{private: k, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}}, nil
}

const fingerprintPrefix = "sha256:"

func fingerprint(pub ed25519.PublicKey) string {
	h := sha256.Sum256(pub)
	return fingerprintPrefix + hex.EncodeToString(h[:])
}

// Fingerprint names the key: sha256 of the public key.
func (k *Key) Fingerprint() string { return fingerprint(k.private.Public().(ed25519.PublicKey)) }

// Trusted is one pinned key.
type Trusted struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"`
	Added       time.Time `json:"added"`
}

// Trust is the file of pinned keys. It is read anew for each question, because another process
// may have paired. Any goroutine.
type Trust struct {
	path string
	mu   sync.Mutex
	now  func() time.Time
}

// OpenTrust names the file; it need not exist.
func OpenTrust(path string) (*Trust, error) {
	t := &Trust{path: path, now: time.Now}
	_, err := t.read()
	return t, err
}

func (t *Trust) read() ([]Trusted, error) {
	b, err := os.ReadFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trusted keys: %w", err)
	}
	var l []Trusted
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("trusted keys: %s: %w", t.path, err)
	}
	return l, nil
}

// List gives the pinned keys; none when the file cannot be read.
func (t *Trust) List() []Trusted {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, err := t.read()
	if err != nil || l == nil {
		return []Trusted{}
	}
	return l
}

// Has reports whether a key is pinned. A file that cannot be read pins nothing.
func (t *Trust) Has(fp string) bool {
	for _, k := range t.List() {
		if k.Fingerprint == fp {
			return true
		}
	}
	return false
}

// CheckFingerprint refuses what names no key.
func CheckFingerprint(fp string) error {
	raw, err := hex.DecodeString(strings.TrimPrefix(fp, fingerprintPrefix))
	if err != nil || len(raw) != sha256.Size || !strings.HasPrefix(fp, fingerprintPrefix) {
		return fmt.Errorf("%q is not a fingerprint: want %s and 64 hexadecimal digits, as `robib-ublk key show` prints it", fp, fingerprintPrefix)
	}
	return nil
}

// Add pins a key; one that is pinned already stays as it is.
func (t *Trust) Add(name, fp string) error {
	if err := CheckFingerprint(fp); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l, err := t.read()
	if err != nil {
		return err
	}
	for _, k := range l {
		if k.Fingerprint == fp {
			return nil
		}
	}
	b, err := json.MarshalIndent(append(l, Trusted{name, fp, time.Now().UTC().Truncate(time.Second)}), "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(t.path, append(b, '\n'))
}
