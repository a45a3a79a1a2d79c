package cluster

import (
	"bytes"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Authority is the swarm's certificate authority: the only record with a private key. It has no route.
type Authority struct {
	ID string
	swarm.Meta
	StateVersion uint64 `json:",omitempty"`
	// Cert is the root certificate that every node trusts, PEM.
	Cert []byte `json:",omitempty"`
	// PrivateKey is the root's private key, PKCS #8 in PEM.
	PrivateKey []byte `json:",omitempty"`
	// CrossSigned is the root's key signed by the root before it, PEM; nil for a swarm's first root. It goes out with each
	// certificate, so that a node that knows only the root before learns from a manager that it is late.
	CrossSigned []byte `json:",omitempty"`
	// Next is the root that takes this one's place once every node has a certificate of it; nil if none does. It signs
	// already.
	Next *NextRoot `json:",omitempty"`
}

// NextRoot is a root that is on its way in.
type NextRoot struct {
	Cert, PrivateKey []byte
	// CrossSigned is its key signed by the root that it replaces: who trusts only that one trusts its certificates.
	CrossSigned []byte
	// Tokens are the join tokens that go with it.
	Tokens swarm.JoinTokens
	// Began is when the rotation began, in swarm time.
	Began time.Time
}

// Finish makes the next root the swarm's, with its tokens and what is shown of it.
func (a *Authority) Finish(s *Swarm) {
	n := a.Next
	a.Cert, a.PrivateKey, a.CrossSigned, a.Next = n.Cert, n.PrivateKey, n.CrossSigned, nil
	s.JoinTokens, s.TLSInfo.TrustRoot, s.RootRotationInProgress = n.Tokens, string(n.Cert), false
}

// HasIssuer says whether the node is known to have a certificate of whoever signs the swarm's certificates now.
func (n *Node) HasIssuer(s *Swarm) bool {
	have, want := n.Description.TLSInfo, s.TLSInfo
	return bytes.Equal(have.CertIssuerPublicKey, want.CertIssuerPublicKey) && bytes.Equal(have.CertIssuerSubject, want.CertIssuerSubject)
}
