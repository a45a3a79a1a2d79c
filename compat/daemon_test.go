package compat

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// client runs the stock docker client in a host's network and returns what it printed on both outputs.
func client(t *testing.T, s *lab.Solo, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	all := s.Command(append([]string{filepath.Join("..", "bin", "clients", "docker")}, args...)...)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=", "DOCKER_CONFIG="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// must is client that has to succeed on the host's socket.
func must(t *testing.T, s *lab.Solo, args ...string) string {
	t.Helper()
	out, err := client(t, s, append([]string{"-H", "unix://" + s.Socket}, args...)...)
	if err != nil {
		t.Fatalf("docker %v: %v: %s", args, err, out)
	}
	return out
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := lab.Wait(ctx, what, func(context.Context) error { return cond() }); err != nil {
		t.Fatal(err)
	}
}

// authority makes a CA's certificate in dir, and with it one for each name, each as NAME.pem and NAME-key.pem.
func authority(t *testing.T, dir, ca string, names ...string) {
	t.Helper()
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for i, name := range append([]string{ca}, names...) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true,
			IsCA: i == 0, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		if i == 0 {
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-key.pem", "PRIVATE KEY", private)
	}
}

func TestTLS(t *testing.T) {
	l := open(t)
	built(t, l, "docker")
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name+".pem") }
	authority(t, dir, "ca", "server", "client")
	authority(t, dir, "stranger", "intruder")
	s := solo(t, l, nil)
	// A configuration that would open the API to everybody is refused unless it says so.
	hosts := []string{"unix://" + s.Socket, "tcp://127.0.0.1:2376"}
	restart := func(settings map[string]any) error {
		if err := s.Configure(settings); err != nil {
			t.Fatal(err)
		}
		if err := s.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, "shoald ends", func() error {
			if _, err := os.Stat(s.PIDFile); !os.IsNotExist(err) {
				return fmt.Errorf("its pidfile is there (%v)", err)
			}
			return nil
		})
		return s.Start(t.Context())
	}
	if err := restart(map[string]any{"hosts": hosts}); err == nil || !strings.Contains(err.Error(), "whoever reaches the API is root on this machine") {
		t.Fatalf("plain TCP that nobody asked for: %v", err)
	}
	secure := map[string]any{"hosts": hosts, "tlsverify": true, "tlscacert": file("ca"), "tlscert": file("server"), "tlskey": file("server-key")}
	if err := s.Configure(secure); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	as := func(ca, cert string, args ...string) []string {
		return append([]string{"-H", "tcp://127.0.0.1:2376", "--tlsverify", "--tlscacert", file(ca), "--tlscert", file(cert), "--tlskey", file(cert + "-key")}, args...)
	}
	if out, err := client(t, s, as("ca", "client", "info", "--format", "{{.Name}} {{len .Warnings}}")...); err != nil || out != s.Name+" 0" {
		t.Errorf("a client with a certificate: %q, %v", out, err)
	}
	if out, err := client(t, s, as("ca", "client", "run", "--rm", "busybox", "echo", "over", "TLS")...); err != nil || !strings.HasSuffix(out, "over TLS") {
		t.Errorf("attach over TLS: %q, %v", out, err)
	}
	for name, args := range map[string][]string{
		"another CA's client": as("ca", "intruder", "ps"),
		"another CA's server": as("stranger", "client", "ps"),
		"no TLS":              {"-H", "tcp://127.0.0.1:2376", "ps"},
	} {
		out, err := client(t, s, args...)
		if err == nil || !strings.Contains(out, "certificate") && !strings.Contains(out, "HTTP request to an HTTPS server") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	curl := s.Command("curl", "-sS", "--cacert", file("ca"), "https://127.0.0.1:2376/_ping")
	if out, err := exec.CommandContext(t.Context(), curl[0], curl[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "certificate required") {
		t.Errorf("no client certificate: %v, %s", err, out)
	}
	if err := restart(map[string]any{"hosts": hosts, "tls": false}); err != nil {
		t.Fatal(err)
	}
	out, err := client(t, s, "-H", "tcp://127.0.0.1:2376", "info")
	if err != nil || !strings.Contains(out, "WARNING: API is accessible on http://127.0.0.1:2376 without encryption") {
		t.Errorf("open by request: %v\n%s", err, out)
	}
	if log, err := os.ReadFile(s.Log); err != nil || !strings.Contains(string(log), "level=WARN msg=\"API is accessible on http://127.0.0.1:2376 without encryption") {
		t.Errorf("the log does not warn: %v\n%s", err, log)
	}
}

func TestReload(t *testing.T) {
	l := open(t)
	built(t, l, "docker")
	s := solo(t, l, map[string]any{"labels": []string{"zone=a"}})
	reload := func(settings map[string]any) {
		t.Helper()
		if err := s.Configure(settings); err != nil {
			t.Fatal(err)
		}
		if err := s.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	logged := func(text string) {
		t.Helper()
		eventually(t, "the log says "+text, func() error {
			if log, err := os.ReadFile(s.Log); err != nil || !strings.Contains(string(log), text) {
				return fmt.Errorf("it does not (%v)", err)
			}
			return nil
		})
	}
	info := func() string {
		return must(t, s, "info", "--format", "{{.Labels}} {{.Debug}} {{.RegistryConfig.Mirrors}}")
	}
	mirror := "[http://" + s.Registry + "/]"
	if got := info(); got != "[zone=a] false "+mirror && got != "[zone=a] false "+strings.Replace(mirror, "/]", "]", 1) {
		t.Fatalf("before: %s", got)
	}
	must(t, s, "pull", "-q", "busybox")
	id := must(t, s, "run", "-d", "busybox", "sleep", "1000")

	reload(map[string]any{"labels": []string{"zone=b"}, "debug": true, "registry-mirrors": []string{}, "data-root": "/elsewhere"})
	logged("keys=data-root")
	eventually(t, "the labels are new", func() error {
		if got := info(); got != "[zone=b] true []" {
			return fmt.Errorf("info: %s", got)
		}
		return nil
	})
	if out, err := client(t, s, "-H", "unix://"+s.Socket, "pull", "hello:1"); err == nil {
		t.Errorf("a mirror that is gone was asked: %s", out)
	}
	if got := must(t, s, "events", "--since", "1m", "--until", "-1s", "--filter", "event=reload", "--format", "{{.Type}} {{.Actor.Attributes.name}} {{.Actor.Attributes.labels}}"); got != `daemon `+s.Name+` ["zone=b"]` {
		t.Errorf("the event: %s", got)
	}

	// What is wrong in one key changes none.
	reload(map[string]any{"labels": []string{"zone=c"}, "registry-mirrors": []string{"nonsense"}})
	logged(`invalid mirror: \"nonsense\" is not an http or https URL`)
	reload(map[string]any{"labels": []string{"zone=c"}, "nonsense": true})
	logged("the following directives don't match any configuration option: nonsense")
	if got := info(); got != "[zone=b] true []" {
		t.Errorf("a bad file changed something: %s", got)
	}
	if got := must(t, s, "ps", "-q", "--no-trunc"); got != id {
		t.Errorf("containers: %q, want %s", got, id)
	}
}
