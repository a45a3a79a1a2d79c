package containerd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// checked refuses what cannot be the manifest of an image before anything is made of it, and says of a registry that is
// not trusted what to do about that. A mirror whose answer is refused counts as one that has not answered.
type checked struct {
	next  http.RoundTripper
	certs []string // see hostTLS
}

// RoundTrip implements http.RoundTripper.
func (c checked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, c.explain(r, err)
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(r.URL.Path, "/manifests/") {
		return resp, nil
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" {
		return nil, errors.Join(fmt.Errorf("the registry %s sent a web page instead of a manifest", r.URL.Host), resp.Body.Close())
	}
	if resp.ContentLength > docker.MaxManifestSize {
		return nil, errors.Join(tooLong(r), resp.Body.Close())
	}
	resp.Body = &manifestBody{resp.Body, r, docker.MaxManifestSize}
	return resp, nil
}

func tooLong(r *http.Request) error {
	return fmt.Errorf("the registry %s sent a manifest of more than %d bytes, which is the most that is read", r.URL.Host, docker.MaxManifestSize)
}

// manifestBody ends with an error where a manifest is too long: its length need not have been announced.
type manifestBody struct {
	io.ReadCloser
	of   *http.Request
	left int64
}

func (b *manifestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooLong(b.of)
	}
	return n, err
}

// explain adds the way out to what is wrong with a registry's certificate.
func (c checked) explain(r *http.Request, err error) error {
	var unknown x509.UnknownAuthorityError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown) && len(c.certs) > 0:
		return fmt.Errorf("%w (if the registry %s is to be trusted, put the certificate of its authority into %s)", err, r.URL.Host,
			filepath.Join(c.certs[len(c.certs)-1], r.URL.Host, "ca.crt"))
	case errors.As(err, &plain) && string(plain.RecordHeader[:]) == "HTTP/":
		return fmt.Errorf("%w (if the registry %s is to be used without TLS, add it to insecure-registries)", http.ErrSchemeMismatch, r.URL.Host)
	}
	return err
}
