// Package pki is the swarm's certificate authority: its root, join tokens and node certificates.
//
// It decides what a certificate says and who a certificate names. It owns the formats of tokens and certificates. It
// never speaks to the network, never looks at the clock on its own, and touches the disk only in [SaveIdentity] and [LoadIdentity].
// What a peer may do is decided elsewhere.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

const (
	// rootValidity and rootName are Swarm's (swarmkit ca.RootCAExpiration, ca.rootCN).
	rootValidity = 20 * 365 * 24 * time.Hour
	rootName     = "swarm-ca"

	// backdate is how far a peer's clock may be behind the issuer's; Swarm's value (swarmkit ca.CertBackdate).
	backdate = time.Hour

	// DefaultValidity is how long a node's certificate is valid unless the swarm says otherwise: 90 days, as in Docker.
	DefaultValidity = 90 * 24 * time.Hour
	// MinValidity is the shortest that Docker accepts for a swarm's certificates.
	MinValidity = time.Hour

	// The organisational units of node certificates, which carry the role; Swarm's (swarmkit ca.ManagerRole, ca.WorkerRole). They
	// are DNS names of the certificate too.
	ouManager = "swarm-manager"
	ouWorker  = "swarm-worker"

	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
	pemRequest     = "CERTIFICATE REQUEST"

	// maxRequest is the largest certificate request in bytes; one of ours has about 450.
	maxRequest = 16 << 10
)

// NewAuthority makes a swarm's root: ECDSA P-256, self-signed, 20 years.
func NewAuthority(now time.Time) (*cluster.Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the swarm's root key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: rootName},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(rootValidity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1, // room for the root that takes its place, cross-signed
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the swarm's root certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &cluster.Authority{ID: cluster.SingletonID, Cert: encodePEM(pemCertificate, der), PrivateKey: keyPEM}, nil
}

// NewRequest makes a node's key (ECDSA P-256, PKCS #8) and a certificate request for it. The request names nobody: who
// the node is, the authority decides.
func NewRequest() (keyPEM, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the certificate request: %w", err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	return keyPEM, encodePEM(pemRequest, der), nil
}

// Sign makes a node's certificate, in PEM with what links it to the root that the nodes trust. It takes nothing from the request but the key, after checking that the requester has
// it. The certificate is valid from an hour before now until validity after now, and not longer than the root.
func Sign(a *cluster.Authority, csrPEM []byte, swarmID, nodeID string, role swarm.NodeRole, validity time.Duration, now time.Time) ([]byte, error) {
	ou, err := unitOf(role)
	if err != nil {
		return nil, err
	}
	if swarmID == "" || nodeID == "" || validity <= 0 {
		return nil, fmt.Errorf("a certificate for node %q of swarm %q that is valid for %s cannot be signed", nodeID, swarmID, validity)
	}
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	root, key, chain, err := signer(a)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notBefore, notAfter := now.Add(-backdate), now.Add(validity)
	if notBefore.Before(root.NotBefore) {
		notBefore = root.NotBefore
	}
	if notAfter.After(root.NotAfter) {
		notAfter = root.NotAfter
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("the swarm's root certificate expired at %s and it is %s now", stamp(root.NotAfter), stamp(now))
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: nodeID, OrganizationalUnit: []string{ou}, Organization: []string{swarmID}},
		DNSNames:     []string{ou, nodeID},
		NotBefore:    notBefore, NotAfter: notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, root, csr.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of node %s: %w", nodeID, err)
	}
	return append(encodePEM(pemCertificate, der), chain...), nil
}

// PeerOf says who the first certificate of a chain names, if one of the roots vouches for it at the time now, be it by the
// chain's other certificates. Clocks may be apart by [Leeway].
func PeerOf(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (Peer, error) {
	if len(chain) == 0 || chain[0] == nil {
		return Peer{}, errors.New("no certificate was presented")
	}
	cert, between := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	name := cert.Subject.CommonName
	at, ok := lenient(cert, now)
	switch {
	case ok:
	case now.Before(cert.NotBefore):
		return Peer{}, fmt.Errorf("the certificate of node %s is valid only from %s and it is %s here: the clocks of the two hosts differ; set them by NTP",
			name, stamp(cert.NotBefore), stamp(now))
	default:
		return Peer{}, fmt.Errorf("the certificate of node %s expired at %s and it is %s here: the node was away for too long, or a clock is wrong; "+
			"set the clock, or let the node leave and join again", name, stamp(cert.NotAfter), stamp(now))
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Peer{}, fmt.Errorf("the certificate of node %s is not of this swarm: %w", name, err)
	}
	p := Peer{NodeID: name}
	if len(cert.Subject.Organization) == 1 {
		p.SwarmID = cert.Subject.Organization[0]
	}
	ou := ""
	if len(cert.Subject.OrganizationalUnit) == 1 {
		ou = cert.Subject.OrganizationalUnit[0]
	}
	switch ou {
	case ouManager:
		p.Role = swarm.NodeRoleManager
	case ouWorker:
		p.Role = swarm.NodeRoleWorker
	}
	if p.NodeID == "" || p.SwarmID == "" || p.Role == "" || cert.VerifyHostname(ou) != nil || cert.VerifyHostname(p.NodeID) != nil {
		return Peer{}, fmt.Errorf("the certificate names no node of a swarm: %s", cert.Subject)
	}
	return p, nil
}

func unitOf(role swarm.NodeRole) (string, error) {
	switch role {
	case swarm.NodeRoleManager:
		return ouManager, nil
	case swarm.NodeRoleWorker:
		return ouWorker, nil
	}
	return "", fmt.Errorf("unknown role of a node: %q", role)
}

func parseRequest(csrPEM []byte) (*x509.CertificateRequest, error) {
	if len(csrPEM) > maxRequest {
		return nil, fmt.Errorf("the certificate request has %d bytes, at most %d are accepted", len(csrPEM), maxRequest)
	}
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != pemRequest {
		return nil, errors.New("the certificate request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate request cannot be read: %w", err)
	}
	switch k := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, fmt.Errorf("the certificate request has a key on the curve %s; P-256 and P-384 are accepted", k.Params().Name)
		}
	case *rsa.PublicKey:
		return nil, errors.New("the certificate request has an RSA key; ECDSA is accepted")
	default:
		return nil, fmt.Errorf("the certificate request has a key of the type %T; ECDSA is accepted", k)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed with its own key: %w", err)
	}
	return csr, nil
}

func parseRoot(rootPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(rootPEM)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("the swarm's root certificate is not PEM")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the swarm's root certificate cannot be read: %w", err)
	}
	if !root.IsCA {
		return nil, fmt.Errorf("the certificate %q is not one of an authority", root.Subject.CommonName)
	}
	return root, nil
}

// RootPEM is the PEM text of a root certificate, the one that tokens have the digest of.
func RootPEM(root *x509.Certificate) []byte { return encodePEM(pemCertificate, root.Raw) }

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the key cannot be encoded")
	}
	return encodePEM(pemPrivateKey, der), nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// newSerial returns a random serial number of 128 bits, never 0.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
