package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
)

// The format of join tokens is Swarm's: SWMTKN-1-<digest>-<secret> (swarmkit ca.GenerateJoinToken, ca.ParseJoinToken).
// The digest is the SHA-256 of the root certificate's PEM text and the secret 128 random bits, both to the base 36.
const (
	tokenPrefix  = "SWMTKN"
	tokenVersion = "1"
	digestLength = 50
	secretLength = 25
	base36       = 36
	secretBytes  = 16
)

// ErrToken is what ParseToken returns, in Docker's words.
var ErrToken = errors.New("invalid join token")

// Token is a parsed join token.
type Token struct {
	// Digest is the SHA-256 of the root certificate's PEM text.
	Digest [sha256.Size]byte
	// Secret is what proves the right to join; 25 characters.
	Secret string
}

// NewToken makes a token with a new secret for the swarm of the root certificate.
func NewToken(rootPEM []byte) string {
	secret := make([]byte, secretBytes)
	if _, err := rand.Read(secret); err != nil { // crypto/rand does not fail on Linux
		panic("pki: no randomness: " + err.Error())
	}
	return Token{Digest: sha256.Sum256(rootPEM), Secret: pad(new(big.Int).SetBytes(secret), secretLength)}.String()
}

// String is the token's text. It has the secret in it: not for logs.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, tokenVersion, pad(new(big.Int).SetBytes(t.Digest[:]), digestLength), t.Secret}, "-")
}

// Fingerprint is the digest as Docker prints it: sha256: and 64 hexadecimal digits.
func (t Token) Fingerprint() string { return "sha256:" + hex.EncodeToString(t.Digest[:]) }

// Matches says whether the token was made for the root certificate.
func (t Token) Matches(rootPEM []byte) bool {
	sum := sha256.Sum256(rootPEM)
	return subtle.ConstantTimeCompare(t.Digest[:], sum[:]) == 1
}

// SecretEqual compares two tokens in a time that does not depend on where they differ. An empty token equals nothing.
func SecretEqual(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// ParseToken reads a token. The error is ErrToken.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(s, "-")
	if len(parts) != 4 || parts[0] != tokenPrefix || parts[1] != tokenVersion || len(parts[2]) != digestLength || len(parts[3]) != secretLength {
		return Token{}, ErrToken
	}
	for _, p := range parts[2:] {
		if strings.Trim(p, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			return Token{}, ErrToken
		}
	}
	n, ok := new(big.Int).SetString(parts[2], base36)
	if !ok || n.BitLen() > 8*sha256.Size {
		return Token{}, ErrToken
	}
	t := Token{Secret: parts[3]}
	n.FillBytes(t.Digest[:])
	return t, nil
}

// pad writes n to the base 36 with leading zeros.
func pad(n *big.Int, length int) string {
	s := n.Text(base36)
	return strings.Repeat("0", max(0, length-len(s))) + s
}

// RootDigest is the digest of a root certificate as Docker prints it.
func RootDigest(rootPEM []byte) string { return Token{Digest: sha256.Sum256(rootPEM)}.Fingerprint() }
