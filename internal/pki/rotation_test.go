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
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// nodeOf is a node that gets its certificate and root of a now.
func nodeOf(t *testing.T, a *cluster.Authority, name string) *Identity {
	t.Helper()
	key, csr := request(t)
	cert, err := Sign(a, csr, "sw", name, swarm.NodeRoleManager, time.Hour, testNow)
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(key, cert, a.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func rotate(t *testing.T, a *cluster.Authority) *cluster.Authority {
	t.Helper()
	next, err := NewNext(a, testNow)
	if err != nil {
		t.Fatal(err)
	}
	out := a.Clone().(*cluster.Authority)
	out.Next = next
	return out
}

func finish(a *cluster.Authority) (*cluster.Authority, *cluster.Swarm) {
	out, s := a.Clone().(*cluster.Authority), &cluster.Swarm{}
	out.Finish(s)
	return out, s
}

// TestWhoTakesWhomDuringARotation connects nodes of every stage of a rotation with each other.
func TestWhoTakesWhomDuringARotation(t *testing.T) {
	a0 := authority(t)
	a1 := rotate(t, a0)
	a2, shown := finish(a1)
	a3 := rotate(t, a2)
	replaced := rotate(t, a1) // by another rotation, before it was over
	if string(replaced.Next.Cert) == string(a1.Next.Cert) {
		t.Fatal("the same root again")
	}
	stages := map[string]*Identity{
		"before": nodeOf(t, a0, "before"), "during": nodeOf(t, a1, "during"), "replaced": nodeOf(t, replaced, "replaced"),
		"after": nodeOf(t, a2, "after"), "next": nodeOf(t, a3, "next"),
	}
	apart := map[[2]string]bool{ // whose certificate (first) is not taken by whom
		{"before", "after"}: true, {"before", "next"}: true, // it slept through the rotation
		{"replaced", "after"}: true, {"replaced", "next"}: true, // of a root that never came to be
		{"next", "before"}: true, {"next", "during"}: true, {"next", "replaced"}: true,
	}
	for from, a := range stages {
		for to, b := range stages {
			_, err := PeerOf(a.chain, b.Roots, testNow)
			if apart[[2]string{from, to}] != (err != nil) {
				t.Errorf("the certificate of a node of %q at one of %q: %v", from, to, err)
			}
		}
	}
	if !stages["after"].Former(stages["before"].Cert.Leaf) {
		t.Error("a certificate of the root before is not known as such")
	}
	if stages["after"].Former(nodeOf(t, authority(t), "stranger").Cert.Leaf) || stages["before"].Former(stages["before"].Cert.Leaf) {
		t.Error("a stranger's certificate counts as one of the root before")
	}
	for name, want := range map[string]*cluster.Authority{"before": a0, "during": a1, "after": a2} {
		info, err := TLSInfo(want)
		if err != nil {
			t.Fatal(err)
		}
		got := stages[name].TLSInfo()
		if got.TrustRoot != info.TrustRoot || string(got.CertIssuerPublicKey) != string(info.CertIssuerPublicKey) || string(got.CertIssuerSubject) != string(info.CertIssuerSubject) {
			t.Errorf("%s: the node shows another authority than the swarm", name)
		}
	}
	tok, err := ParseToken(shown.JoinTokens.Worker)
	if err != nil || !tok.Matches(a2.Cert) || shown.TLSInfo.TrustRoot != string(a2.Cert) || shown.RootRotationInProgress {
		t.Errorf("after the end: token %v, %+v", err, shown)
	}
	chain, err := stages["after"].WithRoot()
	if err != nil || string(chain.Certificate[len(chain.Certificate)-1]) != string(parse(t, a2.Cert).Raw) {
		t.Errorf("the root is not the last of the chain: %v", err)
	}
}

func TestIdentitiesOfARotationOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	id := nodeOf(t, rotate(t, authority(t)), "n1")
	if err := SaveIdentity(dir, id, nil); err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(dir, nil)
	if err != nil || len(got.Cert.Certificate) != 2 || string(got.TLSInfo().CertIssuerPublicKey) != string(id.TLSInfo().CertIssuerPublicKey) {
		t.Errorf("%v", err)
	}
}

// foreign is a root that somebody made elsewhere.
func foreign(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) []byte {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "corp", Organization: []string{"Corp"}},
		NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(5 * 365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM(pemCertificate, der)
}

func TestBringNext(t *testing.T) {
	a := authority(t)
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	none := func(*x509.Certificate) {}
	sec1, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := foreign(t, k, none), encodePEM("EC PRIVATE KEY", sec1)
	pkcs1 := encodePEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r))
	ownKey, err := parseKey(a.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"ECDSA, SEC 1", cert, append([]byte("-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n"), key...), ""},
		{"RSA, PKCS #1", foreign(t, r, none), pkcs1, ""},
		{"no certificate", nil, key, "if a signing CA key is provided, the signing CA cert must also be provided"},
		{"no key", cert, nil, "missing"},
		{"nonsense", []byte("x"), key, "could not parse the desired CA certificate"},
		{"two", append(append([]byte{}, cert...), cert...), key, "cannot contain multiple certificates"},
		{"a leaf", foreign(t, k, func(c *x509.Certificate) { c.IsCA = false }), key, "not one of an authority"},
		{"another's key", cert, pkcs1, "does not belong"},
		{"an encrypted key", cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "x"}, Bytes: sec1}), "encrypted"},
		{"soon over", foreign(t, k, func(c *x509.Certificate) { c.NotAfter = testNow.Add(300 * 24 * time.Hour) }), key, "CA certificate expires too soon"},
		{"not yet", foreign(t, k, func(c *x509.Certificate) { c.NotBefore = testNow.Add(time.Hour) }), key, "valid only from"},
		{"the end of a chain", foreign(t, k, func(c *x509.Certificate) { c.MaxPathLenZero = true }), key, "could never be rotated again"},
		{"the same key", foreign(t, ownKey, none), a.PrivateKey, "Cannot update to a cert with an identical key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next, err := BringNext(a, tt.cert, tt.key, testNow)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			during := a.Clone().(*cluster.Authority)
			during.Next = next
			id := nodeOf(t, during, "n1")
			after, _ := finish(during)
			for _, other := range []*Identity{nodeOf(t, a, "n2"), nodeOf(t, after, "n3")} {
				if _, err := PeerOf(id.chain, other.Roots, testNow); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if next, err := BringNext(a, a.Cert, a.PrivateKey, testNow); err != nil || next != nil {
		t.Errorf("the swarm's own root: %v, %v", next, err)
	}
}

func FuzzBringNext(f *testing.F) {
	a, err := NewAuthority(testNow)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Cert, a.PrivateKey)
	f.Fuzz(func(_ *testing.T, cert, key []byte) { _, _ = BringNext(a, cert, key, testNow) })
}

// TestClocks lets the clocks of two nodes be ten minutes apart, whichever is ahead.
func TestClocks(t *testing.T) {
	id := nodeOf(t, authority(t), "n1") // for an hour
	for at, ok := range map[time.Duration]bool{
		-70 * time.Minute: true, -71 * time.Minute: false, // issued ten minutes ahead, and backdated by an hour
		70 * time.Minute: true, 71 * time.Minute: false,
	} {
		if _, err := PeerOf(id.chain, id.Roots, testNow.Add(at)); (err == nil) != ok {
			t.Errorf("at %s: %v", at, err)
		}
	}
}
