package containerd

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// registries says how to reach registries: over which addresses, and how far they are trusted.
type registries struct {
	mu       *sync.RWMutex   // guards the next three
	hosts    map[string]bool // insecure, HOST:PORT
	networks []netip.Prefix  // insecure
	mirrors  []*url.URL      // of docker.io
	certs    []string        // folders of certificates, see hostTLS
	stall    time.Duration   // how long a registry may be silent
	strict   *http.Transport
	lax      *http.Transport
}

func newRegistries(c *Config) (*registries, error) {
	r := &registries{mu: new(sync.RWMutex), hosts: map[string]bool{}, certs: c.CertsDirs, stall: engine.StallTime, strict: docker.DefaultHTTPTransport(nil),
		lax: docker.DefaultHTTPTransport(&tls.Config{InsecureSkipVerify: true})}
	for _, s := range append([]string{"127.0.0.0/8", "::1/128"}, c.InsecureRegistries...) {
		if p, err := netip.ParsePrefix(s); err == nil {
			r.networks = append(r.networks, p)
		} else if strings.ContainsAny(s, "/ ") || s == "" {
			return nil, fmt.Errorf("engine: insecure registry %q is neither HOST[:PORT] nor a network", s)
		} else {
			r.hosts[s] = true
		}
	}
	for _, s := range c.Mirrors {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("engine: mirror %q is not an http or https URL", s)
		}
		r.mirrors = append(r.mirrors, u)
	}
	return r, nil
}

// SetRegistries replaces the Config's InsecureRegistries and Mirrors for pulls from now on. An error changes nothing.
func (e *Engine) SetRegistries(insecure, mirrors []string) error {
	c := e.cfg
	c.InsecureRegistries, c.Mirrors = insecure, mirrors
	now, err := newRegistries(&c)
	if err != nil {
		return err
	}
	r := e.registries
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts, r.networks, r.mirrors = now.hosts, now.networks, now.mirrors
	return nil
}

func (r *registries) mirrorsNow() []*url.URL {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mirrors
}

func (r *registries) insecure(host string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.hosts[host] {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	for _, p := range r.networks {
		if err == nil && p.Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

// resolver looks references up with the given credentials, which only the reference's own registry gets to see.
func (r *registries) resolver(auth *registry.AuthConfig, tracker docker.StatusTracker) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Tracker: tracker, Hosts: func(host string) ([]docker.RegistryHost, error) {
		var list []docker.RegistryHost
		if host == dockerIO {
			for _, m := range r.mirrorsNow() {
				transport, err := r.transport(m.Host)
				if err != nil {
					return nil, err
				}
				client := &http.Client{Transport: transport}
				list = append(list, docker.RegistryHost{Client: client, Host: m.Host, Scheme: m.Scheme,
					Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
					Path:         strings.TrimSuffix(m.Path, "/") + "/v2", Authorizer: &turns{Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(client))}})
			}
		}
		own, err := r.own(host, auth, nil)
		return append(list, own), err
	}})
}

const dockerIO = "docker.io"

// own is a registry itself, rather than its mirrors. refreshed is told of a token that can be used instead of a password;
// nil asks for none.
func (r *registries) own(host string, auth *registry.AuthConfig, refreshed docker.OnFetchRefreshToken) (docker.RegistryHost, error) {
	transport, err := r.transport(host)
	if err != nil {
		return docker.RegistryHost{}, err
	}
	h := docker.RegistryHost{Host: host, Scheme: "https", Path: "/v2", Client: &http.Client{Transport: transport},
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush}
	if host == dockerIO {
		h.Host = "registry-1.docker.io"
	}
	if auth != nil && auth.RegistryToken != "" {
		h.Header = http.Header{"Authorization": {"Bearer " + auth.RegistryToken}}
	}
	opts := []docker.AuthorizerOpt{docker.WithAuthClient(h.Client), docker.WithAuthCreds(func(string) (string, string, error) {
		user, secret := credentials(auth)
		return user, secret, nil
	})}
	if refreshed != nil {
		opts = append(opts, docker.WithFetchRefreshToken(refreshed))
	}
	h.Authorizer = &turns{Authorizer: docker.NewDockerAuthorizer(opts...)}
	return h, nil
}

// turns lets requests ask for a token one after the other: containerd's authorizer looks at when a token expires while
// another request still fetches it.
type turns struct {
	mu sync.Mutex
	docker.Authorizer
}

// Authorize implements docker.Authorizer.
func (t *turns) Authorize(ctx context.Context, r *http.Request) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Authorizer.Authorize(ctx, r)
}

// transport is how requests to a host travel. One that is insecure may speak TLS that nobody vouches for, or none.
func (r *registries) transport(host string) (http.RoundTripper, error) {
	if r.insecure(host) {
		return checked{docker.NewHTTPFallback(patient{r.lax, r.stall}), nil}, nil
	}
	c, err := hostTLS(r.certs, host)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrUnavailable, "certificates of the registry %s: %s", host, err)
	}
	if c == nil {
		return checked{patient{r.strict, r.stall}, r.certs}, nil
	}
	return checked{patient{docker.DefaultHTTPTransport(c), r.stall}, r.certs}, nil
}

// do sends a request to a registry, with whatever credentials it asks for. The answer is not necessarily a success.
func (r *registries) do(ctx context.Context, h docker.RegistryHost, path string) (*http.Response, error) {
	var asked []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.Scheme+"://"+h.Host+h.Path+path, http.NoBody)
		if err != nil {
			return nil, err
		}
		if h.Header != nil {
			req.Header = h.Header.Clone()
		}
		if err := h.Authorizer.Authorize(ctx, req); err != nil {
			return nil, err
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		asked = append(asked, resp)
		const most = 3 // requests: without credentials, with them, and with those that replace expired ones
		if resp.StatusCode != http.StatusUnauthorized || len(asked) == most || h.Header != nil {
			return resp, nil
		}
		_ = resp.Body.Close()
		if err := h.Authorizer.AddResponses(ctx, asked); err != nil {
			return resp, nil // the refusal says more than what went wrong about it
		}
	}
}

// credentials are a user's name and password, or an empty name and an identity token.
func credentials(auth *registry.AuthConfig) (user, secret string) {
	switch {
	case auth == nil:
		return "", ""
	case auth.IdentityToken != "":
		return "", auth.IdentityToken
	case auth.Username == "" && auth.Auth != "":
		if b, err := base64.StdEncoding.DecodeString(auth.Auth); err == nil {
			user, secret, _ = strings.Cut(string(b), ":")
			return user, secret
		}
	}
	return auth.Username, auth.Password
}

// keyedLock lets one caller a key pass at a time. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*keyed
}

type keyed struct {
	turn  chan struct{} // of size 1
	users int
}

// lock waits for its turn, or for done. release must be called if ok.
func (l *keyedLock) lock(key string, done <-chan struct{}) (release func(), ok bool) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyed{}
	}
	k := l.held[key]
	if k == nil {
		k = &keyed{turn: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, key)
		}
	}
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; leave() }, true
	case <-done:
		leave()
		return nil, false
	}
}
