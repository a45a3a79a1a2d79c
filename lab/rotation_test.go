package lab_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRotation gives a swarm another root, with a node that is away and a leader that dies in the middle, and sees that
// no task notices and that old tokens are worth nothing.
func TestRotation(t *testing.T) {
	w := newWorld(t, 5)
	w.swarm(4, 3)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "4", "hello:1")
	w.running(1, "hello", 4, time.Second)
	containers := func(nodes ...int) string {
		var all []string
		for _, n := range nodes {
			all = append(all, w.shoal(n, "container", "ls", "--no-trunc", "--format", "{{.ID}} {{.State}}"))
		}
		return strings.Join(all, "\n")
	}
	before := containers(1, 2, 3, 4)
	progress := func(ask int) string {
		t.Helper()
		return strings.TrimSpace(w.shoal(ask, "info", "--format", "{{.Swarm.Cluster.RootRotationInProgress}}"))
	}
	oldRoot, oldToken := w.shoal(1, "swarm", "ca"), w.shoal(1, "swarm", "join-token", "-q", "worker")

	// All are there: the client's progress bars come to an end.
	w.shoal(1, "swarm", "ca", "--rotate", "--quiet")
	root := w.shoal(1, "swarm", "ca")
	if root == oldRoot || !strings.Contains(root, "BEGIN CERTIFICATE") {
		t.Fatalf("the root after the rotation:\n%s", root)
	}
	if now := containers(1, 2, 3, 4); now != before {
		t.Errorf("the containers were\n%s\nand are\n%s", before, now)
	}
	if got := w.shoal(2, "node", "ls", "--format", "{{.TLSStatus}}"); strings.Count(got, "Ready") != 4 {
		t.Errorf("node ls says %q", got)
	}
	w.refused(5, []string{"remote CA does not match fingerprint"}, "swarm", "join", "--token", oldToken, w.Host(1).Addr+":2377")
	w.shoal(5, "swarm", "join", "--token", w.shoal(1, "swarm", "join-token", "-q", "worker"), w.Host(2).Addr+":2377")

	// A worker is away, and the leader dies.
	if err := w.Kill(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.nodeIs(1, 4, "Down", 30*time.Second)
	w.shoal(1, "swarm", "ca", "--rotate", "--detach")
	if got := progress(1); got != "true" {
		t.Errorf("a rotation is under way: %s", got)
	}
	leader := w.leader(1, 10*time.Second)
	if err := w.Kill(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	other := leader%3 + 1
	w.until(40*time.Second, "all but node4 have a certificate of the new root", func(context.Context) error {
		out, err := w.try(other, "node", "ls", "--format", "{{.Hostname}}={{.TLSStatus}}")
		if err == nil && (strings.Count(out, "=Ready") != 4 || !strings.Contains(out, "node4=Needs Rotation")) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if got := progress(other); got != "true" {
		t.Errorf("the rotation did not wait for node4: %s", got)
	}
	w.shoal(other, "service", "scale", "--detach", "hello=5") // and all the while changes are made
	if err := w.Start(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.until(40*time.Second, "the rotation ends", func(context.Context) error {
		out, err := w.try(other, "node", "ls", "--format", "{{.Hostname}}={{.Status}}={{.TLSStatus}}")
		if err == nil && (strings.Count(out, "=Ready=Ready") != 5 || progress(other) != "false") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if w.shoal(1, "swarm", "ca") == root {
		t.Error("the root is the same")
	}

	// Who is away and given up meets another root, is told so, and joins again.
	if err := w.Kill(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.shoal(other, "swarm", "ca", "--rotate", "--detach")
	w.shoal(other, "node", "rm", "--force", "node4")
	w.until(40*time.Second, "the rotation ends without node4", func(context.Context) error {
		out, err := w.try(other, "node", "ls", "--format", "{{.Hostname}}={{.TLSStatus}}")
		if err == nil && (strings.Count(out, "=Ready") != 4 || progress(other) != "false") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if err := w.Start(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.until(20*time.Second, "node4 says what to do", func(context.Context) error {
		out := w.shoal(4, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}")
		for _, words := range []string{"error ", "rotated", "swarm leave", "swarm join --token"} {
			if !strings.Contains(out, words) {
				return fmt.Errorf("%s", out)
			}
		}
		return nil
	})
	w.shoal(4, "swarm", "leave")
	w.shoal(4, "swarm", "join", "--token", w.shoal(other, "swarm", "join-token", "-q", "worker"), w.Host(other).Addr+":2377")

	// A root of the user's own, by the stock client where there is one.
	cert, key := ownRoot(t)
	args := []string{"swarm", "ca", "--rotate", "--quiet", "--ca-cert", cert, "--ca-key", key}
	if _, ok := w.docker(other, args...); !ok {
		w.shoal(other, args...)
	}
	want, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.shoal(1, "swarm", "ca"); strings.TrimSpace(got) != strings.TrimSpace(string(want)) {
		t.Errorf("the root is\n%s\nand not the one that was brought:\n%s", got, want)
	}
	w.refused(1, []string{"the --ca-cert flag requires that a --ca-key flag"}, "swarm", "ca", "--rotate", "--ca-cert", cert)
	w.refused(1, []string{"requires the `--rotate` flag"}, "swarm", "ca", "--ca-key", key)
}

// ownRoot is a root as a company has one: the names of the files of certificate and key.
func ownRoot(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Corp Root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(5 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "ca.key")
	if err := errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}
