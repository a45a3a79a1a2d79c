package containerd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	apiregistry "github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/engine"
)

// with lets the engine reach registries as change says until the test ends.
func (l *lab) with(t *testing.T, change func(*registries)) {
	t.Helper()
	saved := l.engine.registries
	own := *saved
	change(&own)
	l.engine.registries = &own
	t.Cleanup(func() { l.engine.registries = saved })
}

// certificate makes one for names that parent, or itself, vouches for, and returns it with its key, both also as PEM.
func certificate(t *testing.T, parent *tls.Certificate, names ...string) (c tls.Certificate, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: strings.Join(names, " ")}, DNSNames: names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	signer, by := form, any(key)
	if parent != nil {
		if signer, err = x509.ParseCertificate(parent.Certificate[0]); err != nil {
			t.Fatal(err)
		}
		by = parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, form, signer, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// tlsRegistry is the lab's registry behind TLS.
func (l *lab) tlsRegistry(t *testing.T, h http.Handler, c *tls.Config) (host string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS, srv.Config.ErrorLog = c, log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestCertificates(t *testing.T) {
	l := real(t)
	authority, authorityPEM, _ := certificate(t, nil, "authority")
	server, _, _ := certificate(t, &authority, "reg.test")
	_, clientPEM, clientKey := certificate(t, &authority, "client")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authorityPEM)
	type files = map[string][]byte
	for _, test := range []struct {
		name  string
		wants bool // a client certificate
		files files
		words string // "" for none; HOST and DIR stand for themselves
		class func(error) bool
	}{
		{"an authority that nobody knows", false, nil,
			"tls: failed to verify certificate: x509: certificate signed by unknown authority (if the registry HOST is to be trusted, put the certificate of its authority into DIR/HOST/ca.crt)", errdefs.IsUnavailable},
		{"an authority of one's own", false, files{"ca.crt": authorityPEM}, "", nil},
		{"no client certificate", true, files{"ca.crt": authorityPEM}, "tls: certificate required", errdefs.IsUnavailable},
		{"a client certificate", true, files{"ca.crt": authorityPEM, "client.cert": clientPEM, "client.key": clientKey}, "", nil},
		{"a client certificate for an unknown registry", true, files{"client.cert": clientPEM, "client.key": clientKey}, "unknown authority", errdefs.IsUnavailable},
		{"an authority that is none", false, files{"ca.crt": []byte("x")}, "certificates of the registry HOST: DIR/HOST/ca.crt holds no certificate", errdefs.IsUnavailable},
		{"a certificate without a key", false, files{"ca.crt": authorityPEM, "client.cert": clientPEM},
			"certificates of the registry HOST: missing key client.key for client certificate client.cert", errdefs.IsUnavailable},
		{"a key without a certificate", false, files{"ca.crt": authorityPEM, "client.key": clientKey},
			"certificates of the registry HOST: missing client certificate client.cert for key client.key", errdefs.IsUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &tls.Config{Certificates: []tls.Certificate{server}}
			if test.wants {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool
			}
			host := l.tlsRegistry(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))), c)
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, host), 0o700); err != nil {
				t.Fatal(err)
			}
			for n, b := range test.files {
				if err := os.WriteFile(filepath.Join(dir, host, n), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l.with(t, func(r *registries) { r.certs, r.networks = []string{dir}, nil })
			ref := host + "/deep/sea:1"
			if err := l.engine.TagImage(t.Context(), "busybox:test", ref); err != nil {
				t.Fatal(err)
			}
			pushed := l.engine.Push(t.Context(), ref, engine.PushOptions{}, nil)
			if _, err := l.engine.RemoveImage(t.Context(), ref, false); err != nil {
				t.Fatal(err)
			}
			pulled := l.engine.Pull(t.Context(), ref, engine.PullOptions{}, nil)
			_, login := l.engine.Login(t.Context(), &apiregistry.AuthConfig{ServerAddress: host, Username: "fish", Password: "water"})
			words := strings.NewReplacer("HOST", host, "DIR", dir).Replace(test.words)
			for what, err := range map[string]error{"push": pushed, "pull": pulled, "login": login} {
				if test.class == nil && err != nil || test.class != nil && (err == nil || !test.class(err) || !strings.Contains(err.Error(), words)) {
					t.Errorf("%s: %v; want %q", what, err, words)
				}
			}
			if pulled == nil {
				if _, err := l.engine.RemoveImage(t.Context(), ref, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A registry that is called insecure may have any certificate, or none; one that is not must have one.
func TestInsecureRegistries(t *testing.T) {
	l := real(t)
	self, _, _ := certificate(t, nil, "somebody else")
	hidden := l.tlsRegistry(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))), &tls.Config{Certificates: []tls.Certificate{self}})
	for what, host := range map[string]string{"plain": l.registry, "TLS": hidden} {
		t.Run(what, func(t *testing.T) {
			ref := host + "/insecure/sea:1"
			if err := l.engine.TagImage(t.Context(), "busybox:test", ref); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = l.engine.RemoveImage(context.Background(), ref, false) }()
			l.with(t, func(r *registries) { r.hosts, r.networks = map[string]bool{host: true}, nil })
			if err := l.engine.Push(t.Context(), ref, engine.PushOptions{}, nil); err != nil {
				t.Fatal(err)
			}
			if err := l.engine.Pull(t.Context(), ref, engine.PullOptions{}, nil); err != nil {
				t.Error(err)
			}
			l.with(t, func(r *registries) { r.hosts = nil })
			words := "certificate signed by unknown authority"
			if what == "plain" {
				words = "http: server gave HTTP response to HTTPS client (if the registry " + host + " is to be used without TLS, add it to insecure-registries)"
			}
			for what, err := range map[string]error{"push": l.engine.Push(t.Context(), ref, engine.PushOptions{}, nil), "pull": l.engine.Pull(t.Context(), ref, engine.PullOptions{}, nil)} {
				if err == nil || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), words) {
					t.Errorf("%s from one that is not to be trusted: %v", what, err)
				}
			}
		})
	}
}

// Mirrors are asked in their order, and docker.io itself when none has the image; only that gets to see credentials.
func TestMirrorsFallBack(t *testing.T) {
	l := real(t)
	var mu sync.Mutex
	var asked []string
	whoWasAsked := func() string {
		mu.Lock()
		defer mu.Unlock()
		all := strings.Join(asked, " ")
		asked = nil
		return all
	}
	counted := func(who string, h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			if isManifest(r) && (len(asked) == 0 || asked[len(asked)-1] != who) {
				asked = append(asked, who)
			}
			mu.Unlock()
			if who != "hub" && r.Header.Get("Authorization") != "" {
				t.Errorf("%s was sent credentials", who)
			}
			h.ServeHTTP(w, r)
		})
	}
	quiet := registry.Logger(log.New(io.Discard, "", 0))
	hubStore := registry.New(quiet)
	authority, _, _ := certificate(t, nil, "authority")
	server, _, _ := certificate(t, &authority, "registry-1.docker.io")
	hub := l.tlsRegistry(t, counted("hub", &door{inner: hubStore}), &tls.Config{Certificates: []tls.Certificate{server}})
	down := httptest.NewServer(nil)
	down.Close()
	empty := httptest.NewServer(counted("empty", registry.New(quiet)))
	defer empty.Close()
	portal := httptest.NewServer(counted("portal", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isManifest(r) {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "<html>welcome to the hotel</html>")
	})))
	defer portal.Close()
	img, err := busybox("of the hub")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.engine.Load(t.Context(), dockerArchive("school/hub:1", img)); err != nil {
		t.Fatal(err)
	}
	r, err := newRegistries(&Config{Mirrors: []string{down.URL, empty.URL, portal.URL}})
	if err != nil {
		t.Fatal(err)
	}
	r.strict = docker.DefaultHTTPTransport(&tls.Config{RootCAs: poolOf(t, authority)})
	r.strict.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, hub)
	}
	l.with(t, func(old *registries) { *old = *r })
	auth := &apiregistry.AuthConfig{Username: guest, Password: password}
	if err := l.engine.Push(t.Context(), "school/hub:1", engine.PushOptions{Auth: auth}, nil); err != nil {
		t.Fatal(err)
	}
	if got := whoWasAsked(); got != "hub" {
		t.Errorf("a push asked %q", got)
	}
	if _, err := l.engine.RemoveImage(t.Context(), "school/hub:1", false); err != nil {
		t.Fatal(err)
	}
	if err := l.engine.Pull(t.Context(), "school/hub:1", engine.PullOptions{Auth: auth}, nil); err != nil {
		t.Fatal(err)
	}
	if got := whoWasAsked(); !strings.HasPrefix(got, "empty portal hub") {
		t.Errorf("a pull asked %q", got)
	}
	if _, err := l.engine.RemoveImage(t.Context(), "school/hub:1", false); err != nil {
		t.Error(err)
	}
	err = l.engine.Pull(t.Context(), "school/none:1", engine.PullOptions{Auth: auth}, nil)
	if !errdefs.IsNotFound(err) || err.Error() != "manifest for school/none:1 not found: manifest unknown" {
		t.Errorf("what nobody has: %v", err)
	}
}

func poolOf(t *testing.T, c tls.Certificate) *x509.CertPool {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AddCert(leaf)
	return p
}
