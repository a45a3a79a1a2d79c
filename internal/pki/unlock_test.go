package pki

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

func TestUnlockKeysHaveDockersForm(t *testing.T) {
	key := NewUnlockKey()
	text := FormatUnlockKey(key)
	if !strings.HasPrefix(text, "SWMKEY-1-") || len(text) != len("SWMKEY-1-")+43 {
		t.Errorf("a key is shown as %q", text)
	}
	if got, err := ParseUnlockKey(text); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%q is read as %x: %v", text, got, err)
	}
	if got := FormatUnlockKey(nil); got != "" {
		t.Errorf("no key is shown as %q", got)
	}
	for _, bad := range []string{"", "SWMKEY-1-", text + "A", text[:len(text)-1], strings.Replace(text, "1", "2", 1), "SWMTKN-1-x", "SWMKEY-1-" + strings.Repeat("!", 43), " " + text} {
		if _, err := ParseUnlockKey(bad); err == nil || err.Error() != "invalid key string" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestASealOpensForItsKeyAndPurposeOnly(t *testing.T) {
	key, plain := NewUnlockKey(), []byte("what nobody else may read")
	sealed := Seal(key, plain, "a")
	if bytes.Contains(sealed, plain) || bytes.Equal(sealed, Seal(key, plain, "a")) {
		t.Error("the seal shows something")
	}
	if got, err := Open(key, sealed, "a"); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%q, %v", got, err)
	}
	for name, try := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return Open(NewUnlockKey(), sealed, "a") },
		"no key":          func() ([]byte, error) { return Open(nil, sealed, "a") },
		"another purpose": func() ([]byte, error) { return Open(key, sealed, "b") },
		"nothing":         func() ([]byte, error) { return Open(key, nil, "a") },
	} {
		if got, err := try(); !errors.Is(err, ErrSeal) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := Open(key, bad, "a"); !errors.Is(err, ErrSeal) {
			t.Errorf("with byte %d changed: %v", i, err)
		}
		if _, err := Open(key, sealed[:i], "a"); !errors.Is(err, ErrSeal) {
			t.Errorf("cut off after %d bytes: %v", i, err)
		}
	}
}

func TestASealedIdentity(t *testing.T) {
	dir, seal := t.TempDir(), NewUnlockKey()
	ca, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := Sign(ca, csr, "sw", "n1", swarm.NodeRoleManager, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(key, cert, ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveIdentity(dir, id, seal); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, nodeFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(key)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && bytes.Contains(data, []byte(line)) {
			t.Errorf("the file has %q of the private key", line)
		}
	}
	if got, err := LoadIdentity(dir, seal); err != nil || got.Peer != id.Peer || !bytes.Equal(got.keyPEM, id.keyPEM) {
		t.Errorf("read back: %v", err)
	}
	for _, wrong := range [][]byte{nil, NewUnlockKey()} {
		if _, err := LoadIdentity(dir, wrong); !errors.Is(err, ErrSeal) {
			t.Errorf("read with %d other bytes: %v", len(wrong), err)
		}
	}
	// What was sealed can be made readable, and a seal does not hinder what is.
	if err := SaveIdentity(dir, id, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir, seal); err != nil {
		t.Error(err)
	}
}
