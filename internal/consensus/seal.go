package consensus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Everything at rest is sealed with AES-256-GCM. No nonce may ever come twice under one key, so every key is derived
// (HKDF-SHA256) from the manager's with a new random salt for each run of the daemon (log) or each file (snapshots), and
// its nonces are a counter.
const (
	keySize  = 32
	saltSize = 32
	tagSize  = 16
)

// deriveAEAD makes the cipher for a salt; purpose keeps log and snapshots apart.
func deriveAEAD(key, salt []byte, purpose string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, salt, purpose, keySize)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	return cipher.NewGCM(b)
}

// nonce is the counter as a nonce of 12 bytes; the first byte tells kinds of chunks apart.
func nonce(kind byte, counter uint64) []byte {
	n := make([]byte, 12)
	n[0] = kind
	binary.BigEndian.PutUint64(n[4:], counter)
	return n
}

var errSeal = errors.New("its seal is broken: the bytes were changed, or the key is another one")
