package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Peer is who a certificate names.
type Peer struct {
	SwarmID string
	NodeID  string
	Role    swarm.NodeRole
}

// Identity is a node's key and certificate, with the swarm's root. It is immutable.
type Identity struct {
	Peer
	// Cert has the node's certificate and key, with what links it to an older root and without the root.
	Cert tls.Certificate
	// RootPEM is the swarm's root certificate; Roots holds it.
	RootPEM []byte
	Roots   *x509.CertPool

	keyPEM, certPEM []byte
	chain           []*x509.Certificate // of Cert
	tlsInfo         swarm.TLSInfo
}

// NewIdentity puts together what a certificate request gave. It checks that key, certificate and root belong together; it does
// not look at the clock.
func NewIdentity(keyPEM, certPEM, rootPEM []byte) (*Identity, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the node's certificate and key: %w", err)
	}
	root, err := parseRoot(rootPEM)
	if err != nil {
		return nil, err
	}
	id := &Identity{
		Cert: cert, RootPEM: bytes.Clone(rootPEM), Roots: x509.NewCertPool(),
		keyPEM: bytes.Clone(keyPEM), certPEM: bytes.Clone(certPEM),
	}
	id.Roots.AddCert(root)
	// The time is one at which the certificate is valid: expiry is for whoever connects to judge.
	if id.chain, err = parseChain(cert.Certificate); err != nil {
		return nil, err
	}
	if id.Peer, err = PeerOf(id.chain, id.Roots, cert.Leaf.NotBefore.Add(time.Second)); err != nil {
		return nil, err
	}
	id.tlsInfo = id.readTLSInfo(root)
	return id, nil
}

// NotBefore is when the certificate begins to be valid.
func (id *Identity) NotBefore() time.Time { return id.Cert.Leaf.NotBefore }

// NotAfter is when the certificate ends to be valid.
func (id *Identity) NotAfter() time.Time { return id.Cert.Leaf.NotAfter }

// The names of an identity's files. Certificate and key are in one file, so that a renewal replaces both at once.
const (
	nodeFile = "node.pem"
	rootFile = "root.pem"

	// pemSealedKey is the block of a private key that is sealed: what Seal wrote of its PEM text.
	pemSealedKey   = "SHOAL SEALED PRIVATE KEY"
	purposeNodeKey = "shoal node key 1"
)

// SaveIdentity writes the identity to the folder, which it makes (0700) if it is missing. The files are 0600. A crash leaves
// the old identity or the new one. The private key is sealed with the key seal; nil leaves it readable.
func SaveIdentity(dir string, id *Identity, seal []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("saving the node's identity: %w", err)
	}
	// The root first: a node file without a root is useless. Where the root is another than before, the certificate before was
	// of the new root already, by way of the cross-signed one.
	if err := writeFile(filepath.Join(dir, rootFile), id.RootPEM); err != nil {
		return err
	}
	key := id.keyPEM
	if seal != nil {
		key = encodePEM(pemSealedKey, Seal(seal, key, purposeNodeKey))
	}
	both := append(bytes.Clone(id.certPEM), key...)
	return writeFile(filepath.Join(dir, nodeFile), both)
}

// LoadIdentity reads what SaveIdentity wrote; seal opens a private key that was sealed. Without files it returns an error
// that is fs.ErrNotExist.
func LoadIdentity(dir string, seal []byte) (*Identity, error) {
	both, err := os.ReadFile(filepath.Join(dir, nodeFile))
	if err != nil {
		return nil, fmt.Errorf("reading the node's identity: %w", err)
	}
	root, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil {
		return nil, fmt.Errorf("reading the swarm's root certificate: %w", err)
	}
	var certPEM, keyPEM []byte
	for block, rest := pem.Decode(both); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case pemCertificate:
			certPEM = append(certPEM, pem.EncodeToMemory(block)...)
		case pemSealedKey:
			key, err := Open(seal, block.Bytes, purposeNodeKey)
			if err != nil {
				return nil, fmt.Errorf("the node's private key in %s: %w", filepath.Join(dir, nodeFile), err)
			}
			keyPEM = append(keyPEM, key...)
		default:
			keyPEM = append(keyPEM, pem.EncodeToMemory(block)...)
		}
	}
	id, err := NewIdentity(keyPEM, certPEM, root)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, nodeFile), err)
	}
	return id, nil
}

// writeFile replaces a file: after a crash it has the old content or the new.
func writeFile(path string, data []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Holder holds the node's current identity. Whoever opens or accepts a connection gets it from here, so that a renewed certificate
// is used without a restart. The zero value is empty. It is safe for concurrent use.
type Holder struct{ p atomic.Pointer[Identity] }

// NewHolder returns a holder of id.
func NewHolder(id *Identity) *Holder {
	h := &Holder{}
	h.Set(id)
	return h
}

// Get returns the identity, nil if there is none.
func (h *Holder) Get() *Identity { return h.p.Load() }

// Set replaces the identity; nil takes it away.
func (h *Holder) Set(id *Identity) { h.p.Store(id) }

// WithRoot is the certificate with the root in its chain: what is shown to a node that does not have the root yet.
func (id *Identity) WithRoot() (tls.Certificate, error) {
	root, err := parseRoot(id.RootPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := id.Cert
	c.Certificate = append(slices.Clone(id.Cert.Certificate), root.Raw)
	return c, nil
}
