package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Certificate is what a manager says of a node's certificate. The digests are of [TLSDigest].
type Certificate struct {
	// Want is the digest of what the node's certificate is to be like. Empty: it is not the node's turn.
	Want []byte `json:",omitempty"`
	// Have is the digest of what the node is known to have.
	Have []byte
	// Spread is the time over which the swarm's nodes are to spread when they all have to do the same.
	Spread time.Duration
}

// TLSDigest is a digest of the root that is trusted and of the issuer: 16 bytes.
func TLSDigest(t swarm.TLSInfo) []byte {
	h := sha256.New()
	for _, b := range [][]byte{[]byte(t.TrustRoot), t.CertIssuerSubject, t.CertIssuerPublicKey} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	return h.Sum(nil)[:16]
}

// Wants says whether a certificate like t is not what is wanted.
func (c Certificate) Wants(t swarm.TLSInfo) bool {
	return len(c.Want) > 0 && !bytes.Equal(c.Want, TLSDigest(t))
}

// Knows says whether the swarm knows that the node has a certificate like t.
func (c Certificate) Knows(t swarm.TLSInfo) bool { return bytes.Equal(c.Have, TLSDigest(t)) }
