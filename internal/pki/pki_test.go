package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

var testNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func authority(t testing.TB) *cluster.Authority {
	t.Helper()
	a, err := NewAuthority(testNow)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t testing.TB) (key, csr []byte) {
	t.Helper()
	key, csr, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

func parse(t testing.TB, certPEM []byte) *x509.Certificate {
	t.Helper()
	b, rest := pem.Decode(certPEM)
	if b == nil || len(rest) > 0 {
		t.Fatalf("not one PEM block: %s", certPEM)
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func poolOf(t testing.TB, a *cluster.Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(parse(t, a.Cert))
	return p
}

func TestNewAuthority(t *testing.T) {
	c := parse(t, authority(t).Cert)
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Errorf("key %T", c.PublicKey)
	}
	if c.Subject.CommonName != "swarm-ca" || !c.IsCA || c.MaxPathLen != 1 {
		t.Errorf("subject %s, CA %v", c.Subject, c.IsCA)
	}
	if got := c.NotAfter.Sub(testNow); got != 20*365*24*time.Hour {
		t.Errorf("valid for %s", got)
	}
}

func TestTokens(t *testing.T) {
	a, b := authority(t), authority(t)
	text := NewToken(a.Cert)
	if !regexp.MustCompile(`^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$`).MatchString(text) {
		t.Fatalf("token %q", text)
	}
	tok, err := ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if !tok.Matches(a.Cert) || tok.Matches(b.Cert) {
		t.Error("the token matches the wrong root")
	}
	if tok.String() != text || NewToken(a.Cert) == text {
		t.Error("String or the secret is wrong")
	}
	if tok.Fingerprint() != RootDigest(a.Cert) || !strings.HasPrefix(tok.Fingerprint(), "sha256:") {
		t.Errorf("fingerprint %s", tok.Fingerprint())
	}
	if !SecretEqual(text, text) || SecretEqual(text, NewToken(a.Cert)) || SecretEqual("", "") {
		t.Error("SecretEqual is wrong")
	}
	// A digest of zeros has its 50 characters.
	if s := (Token{Secret: strings.Repeat("0", 25)}).String(); len(s) != len(text) {
		t.Errorf("token %q", s)
	}
}

func TestParseTokenRefuses(t *testing.T) {
	ok := NewToken([]byte("x"))
	for name, s := range map[string]string{
		"empty":          "",
		"prefix":         "X" + ok[1:],
		"version":        strings.Replace(ok, "-1-", "-2-", 1),
		"short secret":   ok[:len(ok)-1],
		"long secret":    ok + "0",
		"upper case":     strings.ToUpper(ok),
		"sign":           "SWMTKN-1-+" + ok[10:],
		"part missing":   ok[:len(ok)-26],
		"extra part":     ok + "-x",
		"digest too big": "SWMTKN-1-" + strings.Repeat("z", 50) + "-" + strings.Repeat("0", 25),
		"space":          ok + " ",
		"not ASCII":      "SWMTKN-1-" + strings.Repeat("é", 25) + "-" + strings.Repeat("0", 25),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseToken(s); !errors.Is(err, ErrToken) || err.Error() != "invalid join token" {
				t.Errorf("%q: %v", s, err)
			}
		})
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken([]byte("root")))
	f.Add("SWMTKN-1--")
	f.Add("SWMTKN-1-" + strings.Repeat("z", 50) + "-" + strings.Repeat("z", 25))
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if tok.String() != s {
			t.Errorf("%q came back as %q", s, tok)
		}
	})
}

func TestSignTakesOnlyTheKeyFromTheRequest(t *testing.T) {
	a := authority(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// A request that asks for everything.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "evil", OrganizationalUnit: []string{"swarm-manager"}, Organization: []string{"other"}},
		DNSNames:        []string{"swarm-manager", "evil"},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA:TRUE
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := Sign(a, encodePEM("CERTIFICATE REQUEST", der), "sw", "n1", swarm.NodeRoleWorker, 24*time.Hour, testNow)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, certPEM)
	if c.IsCA || c.Subject.CommonName != "n1" || c.Subject.OrganizationalUnit[0] != "swarm-worker" || c.Subject.Organization[0] != "sw" ||
		strings.Join(c.DNSNames, " ") != "swarm-worker n1" || len(c.ExtKeyUsage) != 2 || !key.PublicKey.Equal(c.PublicKey) {
		t.Errorf("signed %s, names %v, CA %v, usage %v", c.Subject, c.DNSNames, c.IsCA, c.ExtKeyUsage)
	}
	p, err := PeerOf([]*x509.Certificate{c}, poolOf(t, a), testNow)
	if want := (Peer{SwarmID: "sw", NodeID: "n1", Role: swarm.NodeRoleWorker}); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestSignRefuses(t *testing.T) {
	a, other := authority(t), authority(t)
	_, csr := request(t)
	block, _ := pem.Decode(csr)
	forged := bytes.Clone(block.Bytes)
	forged[len(forged)-3] ^= 1 // in the signature
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	with := func(k any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
		if err != nil {
			t.Fatal(err)
		}
		return encodePEM("CERTIFICATE REQUEST", der)
	}
	tests := []struct {
		name     string
		a        *cluster.Authority
		csr      []byte
		swarm    string
		node     string
		role     swarm.NodeRole
		validity time.Duration
		now      time.Time
		want     string
	}{
		{"no PEM", a, []byte("x"), "sw", "n", "worker", time.Hour, testNow, "not PEM"},
		{"wrong PEM", a, a.Cert, "sw", "n", "worker", time.Hour, testNow, "not PEM"},
		{"garbage", a, encodePEM("CERTIFICATE REQUEST", []byte("x")), "sw", "n", "worker", time.Hour, testNow, "cannot be read"},
		{"too large", a, make([]byte, maxRequest+1), "sw", "n", "worker", time.Hour, testNow, "at most 16384"},
		{"forged", a, encodePEM("CERTIFICATE REQUEST", forged), "sw", "n", "worker", time.Hour, testNow, "not signed with its own key"},
		{"RSA", a, with(rsaKey), "sw", "n", "worker", time.Hour, testNow, "RSA"},
		{"Ed25519", a, with(edKey), "sw", "n", "worker", time.Hour, testNow, "ed25519"},
		{"P-521", a, with(p521), "sw", "n", "worker", time.Hour, testNow, "P-521"},
		{"role", a, csr, "sw", "n", "root", time.Hour, testNow, `unknown role of a node: "root"`},
		{"no swarm", a, csr, "", "n", "worker", time.Hour, testNow, "cannot be signed"},
		{"no node", a, csr, "sw", "", "worker", time.Hour, testNow, "cannot be signed"},
		{"no validity", a, csr, "sw", "n", "worker", 0, testNow, "cannot be signed"},
		{"expired root", a, csr, "sw", "n", "worker", time.Hour, testNow.Add(21 * 365 * 24 * time.Hour), "root certificate expired at 2046-"},
		{"foreign key", &cluster.Authority{Cert: a.Cert, PrivateKey: other.PrivateKey}, csr, "sw", "n", "worker", time.Hour, testNow, "does not belong"},
		{"no key", &cluster.Authority{Cert: a.Cert}, csr, "sw", "n", "worker", time.Hour, testNow, "it is missing"},
		{"no root", &cluster.Authority{PrivateKey: a.PrivateKey}, csr, "sw", "n", "worker", time.Hour, testNow, "not PEM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Sign(tt.a, tt.csr, tt.swarm, tt.node, tt.role, tt.validity, tt.now)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPeerOf(t *testing.T) {
	a, other := authority(t), authority(t)
	_, csr := request(t)
	sign := func(now time.Time, validity time.Duration) *x509.Certificate {
		c, err := Sign(a, csr, "sw", "n1", swarm.NodeRoleManager, validity, now)
		if err != nil {
			t.Fatal(err)
		}
		return parse(t, c)
	}
	good := sign(testNow, time.Hour)
	// Signed by the authority for something else: no node may be made of it.
	root, key, err := parseAuthority(a.Cert, a.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	custom := func(change func(*x509.Certificate)) *x509.Certificate {
		k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		c := &x509.Certificate{
			SerialNumber: big.NewInt(5), NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(time.Hour),
			Subject:     pkix.Name{CommonName: "n1", OrganizationalUnit: []string{"swarm-manager"}, Organization: []string{"sw"}},
			DNSNames:    []string{"swarm-manager", "n1"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		change(c)
		der, err := x509.CreateCertificate(rand.Reader, c, root, &k.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := x509.ParseCertificate(der)
		return out
	}
	tests := []struct {
		name  string
		cert  *x509.Certificate
		roots *x509.CertPool
		now   time.Time
		want  []string // none: it is accepted
	}{
		{"good", good, poolOf(t, a), testNow, nil},
		{"clock 59 minutes behind", good, poolOf(t, a), testNow.Add(-59 * time.Minute), nil},
		{"clock too far behind", good, poolOf(t, a), testNow.Add(-2 * time.Hour), []string{"n1", "valid only from 2026-05-01T11:00:00Z", "it is 2026-05-01T10:00:00Z here", "clocks"}},
		{"expired", good, poolOf(t, a), testNow.Add(2 * time.Hour), []string{"n1", "expired at 2026-05-01T13:00:00Z", "it is 2026-05-01T14:00:00Z here"}},
		{"other root", good, poolOf(t, other), testNow, []string{"n1", "not of this swarm"}},
		{"none", nil, poolOf(t, a), testNow, []string{"no certificate"}},
		{"the root itself", parse(t, a.Cert), poolOf(t, a), testNow, []string{"names no node"}},
		{"no role", custom(func(c *x509.Certificate) { c.Subject.OrganizationalUnit = nil }), poolOf(t, a), testNow, []string{"names no node"}},
		{"two roles", custom(func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"swarm-manager", "swarm-worker"} }), poolOf(t, a), testNow, []string{"names no node"}},
		{"no swarm", custom(func(c *x509.Certificate) { c.Subject.Organization = nil }), poolOf(t, a), testNow, []string{"names no node"}},
		{"other names", custom(func(c *x509.Certificate) { c.DNSNames = []string{"swarm-worker", "n1"} }), poolOf(t, a), testNow, []string{"names no node"}},
		{"other use", custom(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), poolOf(t, a), testNow, []string{"not of this swarm"}},
		{"as made", custom(func(*x509.Certificate) {}), poolOf(t, a), testNow, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := PeerOf([]*x509.Certificate{tt.cert}, tt.roots, tt.now)
			if len(tt.want) == 0 {
				if want := (Peer{"sw", "n1", swarm.NodeRoleManager}); err != nil || p != want {
					t.Errorf("%+v, %v", p, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted as %+v", p)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

func identity(t testing.TB, a *cluster.Authority) *Identity {
	t.Helper()
	key, csr := request(t)
	cert, err := Sign(a, csr, "sw", "n1", swarm.NodeRoleManager, time.Hour, testNow)
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(key, cert, a.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentityOnTheDisk(t *testing.T) {
	a := authority(t)
	dir := filepath.Join(t.TempDir(), "certificates")
	if _, err := LoadIdentity(dir, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without files: %v", err)
	}
	first, second := identity(t, a), identity(t, a)
	for _, id := range []*Identity{first, second} { // the second replaces the first
		if err := SaveIdentity(dir, id, nil); err != nil {
			t.Fatal(err)
		}
		got, err := LoadIdentity(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Peer != id.Peer || !got.Cert.Leaf.Equal(id.Cert.Leaf) || !bytes.Equal(got.RootPEM, a.Cert) || !got.Roots.Equal(id.Roots) {
			t.Errorf("%+v came back", got.Peer)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if i, _ := f.Info(); i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), i.Mode())
		}
	}
	if i, _ := os.Stat(dir); i.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v", i.Mode())
	}
	path := filepath.Join(dir, nodeFile)
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir, nil); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
		t.Errorf("cut off: %v", err)
	}
}

func TestNewIdentityRefusesWhatDoesNotBelongTogether(t *testing.T) {
	a, other := authority(t), authority(t)
	key, csr := request(t)
	foreign, _ := request(t)
	cert, err := Sign(a, csr, "sw", "n1", swarm.NodeRoleWorker, time.Hour, testNow)
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][3][]byte{
		"foreign key":  {foreign, cert, a.Cert},
		"foreign root": {key, cert, other.Cert},
		"no root":      {key, cert, nil},
		"leaf as root": {key, cert, cert},
		"no key":       {nil, cert, a.Cert},
	} {
		if _, err := NewIdentity(in[0], in[1], in[2]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHolder(t *testing.T) {
	var h Holder
	if h.Get() != nil {
		t.Error("an empty holder holds something")
	}
	id := identity(t, authority(t))
	h.Set(id)
	if h.Get() != id || NewHolder(id).Get() != id {
		t.Error("the holder lost it")
	}
	c, err := id.WithRoot()
	if err != nil || len(c.Certificate) != 2 || sha256.Sum256(RootPEM(parse(t, encodePEM("CERTIFICATE", c.Certificate[1])))) != sha256.Sum256(id.RootPEM) {
		t.Errorf("WithRoot: %v", err)
	}
	if len(id.Cert.Certificate) != 1 {
		t.Error("WithRoot changed the identity")
	}
}
