package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// minRootLife is how long a root that a user brings must be valid, Docker's year (swarmkit controlapi.minRootExpiration).
const minRootLife = 365 * 24 * time.Hour

// NewNext makes the root that takes the place of a's: signed by itself, and cross-signed by a's own root even where another
// rotation is under way, because that is the one that every node trusts.
func NewNext(a *cluster.Authority, now time.Time) (*cluster.NextRoot, error) {
	next, err := NewAuthority(now)
	if err != nil {
		return nil, err
	}
	return newNext(a, next, now)
}

// BringNext is NewNext for a root that the user has: one certificate of an authority, and its key, which is not encrypted.
// It returns nil and no error if the root is a's own.
func BringNext(a *cluster.Authority, certPEM, keyPEM []byte, now time.Time) (*cluster.NextRoot, error) {
	if len(keyPEM) > 0 && len(certPEM) == 0 {
		return nil, errors.New("if a signing CA key is provided, the signing CA cert must also be provided")
	}
	block, rest := pem.Decode(certPEM)
	if block == nil {
		return nil, errors.New("could not parse the desired CA certificate")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("the desired CA certificate cannot contain multiple certificates")
	}
	next := &cluster.Authority{Cert: encodePEM(block.Type, block.Bytes)}
	root, err := parseRoot(next.Cert)
	if err != nil {
		return nil, fmt.Errorf("could not parse the desired CA certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the key of the desired CA certificate: %w", err)
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P224() {
			return nil, errors.New("the key of the desired CA certificate is on the curve P-224; P-256, P-384 and P-521 are accepted")
		}
	case *rsa.PrivateKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("the key of the desired CA certificate has %d bits; RSA keys need 2048", k.N.BitLen())
		}
	default:
		return nil, errors.New("the key of the desired CA certificate is neither ECDSA nor RSA")
	}
	if next.PrivateKey, err = encodeKey(key); err != nil {
		return nil, err
	}
	own, err := parseRoot(a.Cert)
	if err != nil {
		return nil, err
	}
	switch {
	case !samePublic(key.Public(), root.PublicKey):
		return nil, errors.New("the key does not belong to the desired CA certificate")
	case root.CheckSignatureFrom(root) != nil:
		return nil, errors.New("the desired CA certificate is not signed by itself: a root certificate is needed")
	case root.MaxPathLen == 0 && root.MaxPathLenZero:
		return nil, errors.New("the desired CA certificate permits no authority beneath it (pathlen:0): it could never be rotated again")
	case root.NotAfter.Before(now.Add(minRootLife)):
		return nil, errors.New("CA certificate expires too soon")
	case root.NotBefore.After(now):
		return nil, fmt.Errorf("the desired CA certificate is valid only from %s", stamp(root.NotBefore))
	case bytes.Equal(root.Raw, own.Raw):
		return nil, nil
	case samePublic(own.PublicKey, root.PublicKey):
		//lint:ignore ST1005 Docker's words
		return nil, errors.New("Cannot update to a cert with an identical key")
	}
	return newNext(a, next, now)
}

func newNext(a, next *cluster.Authority, now time.Time) (*cluster.NextRoot, error) {
	cross, err := crossSign(a, next.Cert, now)
	if err != nil {
		return nil, err
	}
	return &cluster.NextRoot{
		Cert: next.Cert, PrivateKey: next.PrivateKey, CrossSigned: cross, Began: now,
		Tokens: swarm.JoinTokens{Worker: NewToken(next.Cert), Manager: NewToken(next.Cert)},
	}, nil
}

// crossSign is the certificate for the next root's key that a's own root vouches for.
func crossSign(a *cluster.Authority, nextPEM []byte, now time.Time) ([]byte, error) {
	root, key, err := parseAuthority(a.Cert, a.PrivateKey)
	if err != nil {
		return nil, err
	}
	if root.MaxPathLen == 0 && root.MaxPathLenZero {
		return nil, errors.New("the swarm's root certificate permits no authority beneath it (pathlen:0): it cannot vouch for another root")
	}
	next, err := parseRoot(nextPEM)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, RawSubject: next.RawSubject, SubjectKeyId: next.SubjectKeyId, AuthorityKeyId: root.SubjectKeyId,
		NotBefore: later(root.NotBefore, next.NotBefore), NotAfter: earlier(root.NotAfter, next.NotAfter),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if !tmpl.NotAfter.After(now) {
		return nil, fmt.Errorf("the swarm's root certificate expired at %s and it is %s now", stamp(root.NotAfter), stamp(now))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, root, next.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("cross-signing the new root certificate: %w", err)
	}
	return encodePEM(pemCertificate, der), nil
}

// signer is what signs nodes' certificates now, with the certificates that link it to an older root: the next root while
// there is one.
func signer(a *cluster.Authority) (*x509.Certificate, crypto.Signer, []byte, error) {
	if n := a.Next; n != nil {
		root, key, err := parseAuthority(n.Cert, n.PrivateKey)
		return root, key, n.CrossSigned, err
	}
	root, key, err := parseAuthority(a.Cert, a.PrivateKey)
	return root, key, a.CrossSigned, err
}

func parseAuthority(certPEM, keyPEM []byte) (*x509.Certificate, crypto.Signer, error) {
	root, err := parseRoot(certPEM)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("the swarm's root key: %w", err)
	}
	if !samePublic(key.Public(), root.PublicKey) {
		return nil, nil, errors.New("the swarm's root key does not belong to its certificate")
	}
	return root, key, nil
}

// parseKey reads a private key in PEM: PKCS #8, SEC 1 or PKCS #1. Errors do not quote it.
func parseKey(keyPEM []byte) (crypto.Signer, error) {
	var block *pem.Block
	for rest := keyPEM; ; {
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it is missing, or not PEM")
		}
		if block.Type != "EC PARAMETERS" { // openssl writes them before the key
			break
		}
	}
	if block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, errors.New("it is encrypted; give it without a passphrase")
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	s, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("it cannot be read")
	}
	return s, nil
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// TLSInfo is what the API shows of a swarm's authority: the root that is trusted, and who signs.
func TLSInfo(a *cluster.Authority) (swarm.TLSInfo, error) {
	signs, _, _, err := signer(a)
	if err != nil {
		return swarm.TLSInfo{}, err
	}
	return swarm.TLSInfo{TrustRoot: string(a.Cert), CertIssuerSubject: signs.RawSubject, CertIssuerPublicKey: signs.RawSubjectPublicKeyInfo}, nil
}

// TLSInfo is what the API shows of a node's certificate. The issuer's key is that of whoever signed it: the link in its
// chain, or the root. Every heartbeat asks for it; its bytes are not to be changed.
func (id *Identity) TLSInfo() swarm.TLSInfo { return id.tlsInfo }

func (id *Identity) readTLSInfo(root *x509.Certificate) swarm.TLSInfo {
	info := swarm.TLSInfo{TrustRoot: string(id.RootPEM), CertIssuerSubject: id.Cert.Leaf.RawIssuer}
	for _, c := range append([]*x509.Certificate{root}, id.chain[1:]...) {
		if id.Cert.Leaf.CheckSignatureFrom(c) == nil {
			info.CertIssuerPublicKey = c.RawSubjectPublicKeyInfo
		}
	}
	return info
}

// Former says whether a certificate was signed by the root that the swarm had before the one that id trusts.
func (id *Identity) Former(cert *x509.Certificate) bool {
	for _, c := range id.chain[1:] {
		if cert != nil && len(c.AuthorityKeyId) > 0 && bytes.Equal(c.AuthorityKeyId, cert.AuthorityKeyId) {
			return true
		}
	}
	return false
}

func parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the node's certificate: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// Leeway is how far the clocks of two nodes may be apart without an effect on what counts as valid. (Certificates are also
// backdated by an hour, for a peer whose clock is behind.)
const Leeway = 10 * time.Minute

// lenient is the time at which to check a certificate: now, or the end of its validity that a clock within the leeway has
// not reached. ok is false if no such clock finds it valid.
func lenient(c *x509.Certificate, now time.Time) (at time.Time, ok bool) {
	switch {
	case now.Before(c.NotBefore):
		return c.NotBefore, !now.Add(Leeway).Before(c.NotBefore)
	case now.After(c.NotAfter):
		return c.NotAfter, !now.Add(-Leeway).After(c.NotAfter)
	}
	return now, true
}

// ValidAt says why the identity's certificate is of no use at a time, whatever clock within the leeway looks at it; nil if
// it is good.
func ValidAt(id *Identity, now time.Time) error {
	_, err := PeerOf(id.chain, id.Roots, now)
	return err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
