package pki

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	// unlockPrefix begins every unlock key, as in Docker (swarmkit manager/encryption).
	unlockPrefix  = "SWMKEY-1-"
	unlockKeySize = 32

	sealSalt = 32
	// sealVersion is the first byte of what Seal writes.
	sealVersion = 1
)

// ErrSeal is what [Open] returns for another key, and for bytes that were changed.
var ErrSeal = errors.New("the seal does not open: the key is another one, or the bytes were changed")

// NewUnlockKey makes the key that managers of a locked swarm need after a restart.
func NewUnlockKey() []byte {
	k := make([]byte, unlockKeySize)
	rand.Read(k) // never fails: crypto/rand ends the program instead
	return k
}

// FormatUnlockKey is the key as users see it: SWMKEY-1-…, "" for none.
func FormatUnlockKey(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	return unlockPrefix + base64.RawStdEncoding.EncodeToString(key)
}

// ParseUnlockKey reads what FormatUnlockKey wrote. Its error is Docker's and does not have the text in it.
func ParseUnlockKey(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, unlockPrefix)
	if !ok || len(text) != base64.RawStdEncoding.EncodedLen(unlockKeySize) {
		return nil, errors.New("invalid key string")
	}
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("invalid key string")
	}
	return key, nil
}

// Seal seals bytes with a random key of at least 16 bytes, for a purpose: what was sealed for one opens for no other.
// Each call uses a key of its own, derived with a new salt (HKDF-SHA256, AES-256-GCM).
func Seal(key, plain []byte, purpose string) []byte {
	salt := make([]byte, sealSalt)
	rand.Read(salt) // never fails
	a, err := sealCipher(key, salt, purpose)
	if err != nil {
		panic(err) // HKDF and AES refuse lengths, and these are constant
	}
	return a.Seal(append([]byte{sealVersion}, salt...), make([]byte, a.NonceSize()), plain, nil)
}

// Open opens what Seal sealed, or returns [ErrSeal].
func Open(key, sealed []byte, purpose string) ([]byte, error) {
	if len(key) == 0 || len(sealed) < 1+sealSalt || sealed[0] != sealVersion {
		return nil, ErrSeal
	}
	salt := bytes.Clone(sealed[1 : 1+sealSalt])
	a, err := sealCipher(key, salt, purpose)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	plain, err := a.Open(nil, make([]byte, a.NonceSize()), sealed[1+sealSalt:], nil)
	if err != nil {
		return nil, ErrSeal
	}
	return plain, nil
}

func sealCipher(key, salt []byte, purpose string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, salt, purpose, 32)
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}
