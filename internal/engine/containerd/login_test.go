package containerd

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	apiregistry "github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/engine"
)

const (
	guest, password = "fish", "water"
	pass            = "an identity token"
)

// door is a registry that wants credentials, and its token server.
type door struct {
	bearer bool // rather than Basic
	noPost bool // the token server knows only the older way to ask it
	inner  http.Handler
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		d.token(w, r)
		return
	}
	u, p, basic := r.BasicAuth()
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !d.bearer && basic && u == guest && p == password || d.bearer && bearer && allows(token, r) {
		d.inner.ServeHTTP(w, r)
		return
	}
	challenge := `Basic realm="sea"`
	if d.bearer {
		challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="sea"`, r.Host)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	refuse(w, "authentication required")
}

func refuse(w http.ResponseWriter, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":%q}]}`, message)
}

// token gives a token for what is asked for to whoever is somebody. It is the list of scopes, for the test to see.
func (d *door) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	known := false
	switch u, p, basic := r.BasicAuth(); {
	case r.Method == http.MethodPost && d.noPost:
		http.NotFound(w, r)
		return
	case r.PostForm.Get("grant_type") == "refresh_token":
		known = r.PostForm.Get("refresh_token") == pass
	case r.Method == http.MethodPost:
		known = r.PostForm.Get("username") == guest && r.PostForm.Get("password") == password
	default:
		known = basic && u == guest && p == password
	}
	if !known {
		refuse(w, "incorrect username or password")
		return
	}
	answer := map[string]string{"access_token": "for:" + strings.Join(r.Form["scope"], " ")}
	if r.Form.Get("access_type") == "offline" || r.Form.Get("offline_token") == "true" {
		answer["refresh_token"] = pass
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// allows says whether a token is good for a request: its scope names the repository and what is done with it.
func allows(token string, r *http.Request) bool {
	scopes, ok := strings.CutPrefix(token, "for:")
	repo, action, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	if !ok || repo == "" {
		return ok
	}
	name, _, _ := strings.Cut(action, "/")
	want := "pull"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		want = "push"
	}
	return slices.ContainsFunc(strings.Fields(scopes), func(s string) bool {
		rest, ok := strings.CutPrefix(s, "repository:"+repo+"/"+name+":")
		return ok && slices.Contains(strings.Split(rest, ","), want)
	})
}

// serve starts the registry and returns where it is.
func (d *door) serve(t *testing.T) (host string) {
	t.Helper()
	if d.inner == nil {
		d.inner = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	}
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestLogin(t *testing.T) {
	l := real(t)
	l.cleanAfter(t)
	basic, bearer, old := (&door{}).serve(t), (&door{bearer: true}).serve(t), (&door{bearer: true, noPost: true}).serve(t)
	hotel := httptest.NewServer(http.NotFoundHandler())
	defer hotel.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	right, wrong := apiregistry.AuthConfig{Username: guest, Password: password}, apiregistry.AuthConfig{Username: guest, Password: "air"}
	for _, test := range []struct {
		name, at string
		auth     apiregistry.AuthConfig
		token    string
		words    string
		class    func(error) bool
	}{
		{"a password", basic, right, "", "", nil},
		{"a password as an URL's", "http://" + basic + "/v1/", right, "", "", nil},
		{"a wrong password", basic, wrong, "", "login attempt to https://HOST/v2/ failed with status: 401 Unauthorized", errdefs.IsUnauthorized},
		{"nobody", basic, apiregistry.AuthConfig{}, "", "login attempt to https://HOST/v2/ failed with status: 401 Unauthorized", errdefs.IsUnauthorized},
		{"a token for a password", bearer, right, pass, "", nil},
		{"a token for an identity token", bearer, apiregistry.AuthConfig{IdentityToken: pass}, pass, "", nil},
		{"an older token server", old, right, pass, "", nil},
		{"no token for a wrong password", bearer, wrong, "", `Get "https://HOST/v2/": unauthorized: incorrect username or password`, errdefs.IsUnauthorized},
		{"no token of an older server", old, wrong, "", `Get "https://HOST/v2/": unauthorized: incorrect username or password`, errdefs.IsUnauthorized},
		{"no token for a wrong identity", bearer, apiregistry.AuthConfig{IdentityToken: "x"}, "", `Get "https://HOST/v2/": unauthorized: incorrect username or password`, errdefs.IsUnauthorized},
		{"no registry", hotel.Listener.Addr().String(), right, "", "login attempt to https://HOST/v2/ failed with status: 404 Not Found", errdefs.IsUnavailable},
		{"nothing there", closed.Listener.Addr().String(), right, "", `Get "https://HOST/v2/": dial tcp HOST: connect: connection refused`, errdefs.IsUnavailable},
		{"an address that is none", "a b", right, "", `unable to parse server address: "https://a b"`, errdefs.IsInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.auth.ServerAddress = test.at
			token, err := l.engine.Login(t.Context(), &test.auth)
			words := strings.ReplaceAll(test.words, "HOST", test.at)
			switch {
			case test.class == nil:
				if err != nil || token != test.token {
					t.Errorf("token %q, %v; want %q", token, err, test.token)
				}
			case err == nil || err.Error() != words || !test.class(err):
				t.Errorf("error %v; want %s", err, words)
			}
		})
	}
}

func TestLoginHost(t *testing.T) {
	for address, want := range map[string]string{"": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io", "docker.io": "docker.io",
		"reg.test": "reg.test", "reg.test:5000": "reg.test:5000", "http://reg.test/v1/": "reg.test", "https://[::1]:5000": "[::1]:5000"} {
		if got, err := loginHost(address); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", address, got, err, want)
		}
	}
}

// What can be pulled and pushed with which credentials; those of one registry go to no other host.
func TestCredentials(t *testing.T) {
	l := real(t)
	l.cleanAfter(t)
	for _, bearer := range []bool{false, true} {
		t.Run(fmt.Sprintf("bearer=%v", bearer), func(t *testing.T) {
			plain := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
			var elsewhere atomic.Bool
			depot := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				elsewhere.Store(true)
				if r.Header.Get("Authorization") != "" {
					t.Error("the credentials went to another host")
				}
				plain.ServeHTTP(w, r)
			}))
			defer depot.Close()
			host := (&door{bearer: bearer, inner: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if isBlob(r) {
					http.Redirect(w, r, (&url.URL{Scheme: "http", Host: strings.Replace(depot.Listener.Addr().String(), "127.0.0.1", "localhost", 1), Path: r.URL.Path}).String(), http.StatusTemporaryRedirect)
					return
				}
				plain.ServeHTTP(w, r)
			})}).serve(t)
			ref := host + "/deep/sea:1"
			img, err := busybox(fmt.Sprint("behind a door ", bearer)) // so that its top layer goes with it
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.engine.Load(t.Context(), dockerArchive(ref, img)); err != nil {
				t.Fatal(err)
			}
			right := &apiregistry.AuthConfig{Username: guest, Password: password}
			bad := map[string]*apiregistry.AuthConfig{"none": nil, "wrong": {Username: guest, Password: "air"}, "wrong token": {RegistryToken: "x"}}
			for what, auth := range bad {
				err := l.engine.Push(t.Context(), ref, engine.PushOptions{Auth: auth}, nil)
				if !errdefs.IsUnauthorized(err) || !strings.HasPrefix(err.Error(), "push access denied, repository does not exist or may require authorization: ") {
					t.Errorf("push, credentials %s: %v", what, err)
				}
			}
			if err := l.engine.Push(t.Context(), ref, engine.PushOptions{Auth: right}, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := l.engine.RemoveImage(t.Context(), ref, false); err != nil {
				t.Fatal(err)
			}
			for what, auth := range bad {
				err := l.engine.Pull(t.Context(), ref, engine.PullOptions{Auth: auth}, nil)
				if !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "pull access denied for "+host+"/deep/sea, repository does not exist or may require 'docker login': ") {
					t.Errorf("pull, credentials %s: %v", what, err)
				}
				if _, err := l.engine.Distribution(t.Context(), ref, auth); err == nil {
					t.Errorf("distribution, credentials %s: no error", what)
				}
			}
			good := []*apiregistry.AuthConfig{right}
			if bearer {
				good = append(good, &apiregistry.AuthConfig{IdentityToken: pass}, &apiregistry.AuthConfig{RegistryToken: "for:repository:deep/sea:pull"})
			} else {
				good = append(good, &apiregistry.AuthConfig{Auth: "ZmlzaDp3YXRlcg=="}) // as configuration files have it
			}
			for _, auth := range good {
				if _, err := l.engine.Distribution(t.Context(), ref, auth); err != nil {
					t.Errorf("distribution with %+v: %v", auth, err)
				}
				for _, o := range []engine.PullOptions{{Auth: auth}, {Auth: auth, AllTags: true}} {
					if err := l.engine.Pull(t.Context(), ref, o, nil); err != nil {
						t.Errorf("pull with %+v: %v", o, err)
					}
				}
				if _, err := l.engine.RemoveImage(t.Context(), ref, false); err != nil {
					t.Error(err)
				}
			}
			if !elsewhere.Load() {
				t.Error("no layer was fetched")
			}
		})
	}
}
