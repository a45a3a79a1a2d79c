package containerd

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/moby/api/types/registry"
)

// registries says how to reach registries: over which addresses, and how far they are trusted.
type registries struct {
	mu       sync.RWMutex    // guards the next three
	hosts    map[string]bool // insecure, HOST:PORT
	networks []netip.Prefix  // insecure
	mirrors  []*url.URL      // of docker.io
	strict   *http.Transport
	lax      *http.Transport
}

func newRegistries(c *Config) (*registries, error) {
	r := &registries{hosts: map[string]bool{}, strict: docker.DefaultHTTPTransport(nil),
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
func (r *registries) resolver(auth *registry.AuthConfig) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: func(host string) ([]docker.RegistryHost, error) {
		var list []docker.RegistryHost
		const look = docker.HostCapabilityPull | docker.HostCapabilityResolve
		if host == "docker.io" {
			for _, m := range r.mirrorsNow() {
				client := &http.Client{Transport: r.strict}
				if r.insecure(m.Host) {
					client.Transport = r.lax
				}
				list = append(list, docker.RegistryHost{Client: client, Host: m.Host, Scheme: m.Scheme, Capabilities: look,
					Path: strings.TrimSuffix(m.Path, "/") + "/v2", Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(client))})
			}
		}
		own := docker.RegistryHost{Host: host, Scheme: "https", Path: "/v2", Capabilities: look, Client: &http.Client{Transport: r.strict}}
		if host == "docker.io" {
			own.Host = "registry-1.docker.io"
		}
		if auth != nil && auth.RegistryToken != "" {
			own.Header = http.Header{"Authorization": {"Bearer " + auth.RegistryToken}}
		}
		if !r.insecure(host) {
			own.Authorizer = authorizer(own.Client, auth)
			return append(list, own), nil
		}
		// Plain HTTP first, since that is what these registries mostly speak; TLS that nobody vouches for second.
		own.Client = &http.Client{Transport: r.lax}
		own.Authorizer = authorizer(own.Client, auth)
		plain := own
		plain.Scheme = "http"
		return append(list, plain, own), nil
	}})
}

func authorizer(client *http.Client, auth *registry.AuthConfig) docker.Authorizer {
	return docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(func(string) (string, string, error) {
		user, secret := credentials(auth)
		return user, secret, nil
	}))
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
