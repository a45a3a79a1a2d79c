package containerd

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apiregistry "github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/engine"
)

func TestInsecure(t *testing.T) {
	r, err := newRegistries(&Config{InsecureRegistries: []string{"198.18.0.251:5000", "reg.test", "10.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"198.18.0.251:5000": true, "198.18.0.251": false, "198.18.0.251:5001": false, "reg.test": true, "reg.test:5000": false,
		"10.1.2.3:80": true, "10.1.2.3": true, "11.1.2.3": false, "localhost:5000": true, "127.0.0.1:1": true, "[::1]:5000": true,
		"docker.io": false,
	} {
		if got := r.insecure(host); got != want {
			t.Errorf("insecure(%q) = %v", host, got)
		}
	}
	for _, c := range []Config{{InsecureRegistries: []string{"http://x"}}, {InsecureRegistries: []string{""}}, {Mirrors: []string{"x:5000"}}, {Mirrors: []string{"ftp://x"}}} {
		if _, err := newRegistries(&c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// A mirror is asked for images of docker.io, which is not asked when the mirror has them.
func TestMirror(t *testing.T) {
	l := real(t)
	img, err := busybox("mirror")
	if err != nil {
		t.Fatal(err)
	}
	l.push(t, "library/mirrored:3", img)
	saved := l.engine.registries
	defer func() { l.engine.registries = saved }()
	var fetched atomic.Int64
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: l.registry})
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fetched.Add(1)
		}
		forward.ServeHTTP(w, r)
	}))
	defer mirror.Close()
	if l.engine.registries, err = newRegistries(&Config{Mirrors: []string{mirror.URL}}); err != nil {
		t.Fatal(err)
	}
	if d, err := l.engine.Distribution(t.Context(), "mirrored:3", nil); err != nil || len(d.Platforms) != 1 {
		t.Errorf("distribution of what is not here: %+v, %v", d, err)
	}
	if err := l.engine.Pull(t.Context(), "mirrored:3", engine.PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	i, err := l.engine.InspectImage(t.Context(), "docker.io/library/mirrored:3", nil)
	if err != nil || !slices.Equal(i.RepoTags, []string{"mirrored:3"}) {
		t.Fatalf("image %+v, %v", i, err)
	}
	fetched.Store(0)
	d, err := l.engine.Distribution(t.Context(), "mirrored:3", nil)
	if n := fetched.Load(); n > 0 {
		t.Errorf("%d times something was fetched that is here", n)
	}
	if err != nil || d.Descriptor.Digest.String() != i.ID || len(d.Platforms) != 1 || d.Platforms[0].OS != "linux" {
		t.Errorf("distribution %+v, %v", d, err)
	}
	// The manager pins the digest; the tag stays in the name that it gives.
	pinned := "mirrored:3@" + i.ID
	if err := l.engine.Pull(t.Context(), pinned, engine.PullOptions{}, nil); err != nil {
		t.Error(err)
	}
	if j, err := l.engine.InspectImage(t.Context(), pinned, nil); err != nil || j.ID != i.ID {
		t.Errorf("inspect %s: %v", pinned, err)
	}
	if _, err := l.engine.RemoveImage(t.Context(), i.ID[7:19], false); err != nil {
		t.Error(err)
	}
	// And a name that is pinned can be pulled when nothing of it is here.
	if err := l.engine.Pull(t.Context(), pinned, engine.PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	list, err := l.engine.Images(t.Context(), engine.ImageListOptions{Filters: map[string][]string{"reference": {"mirrored"}, "dangling": {"false"}}})
	if err != nil || len(list) != 1 || len(list[0].RepoTags) != 0 || !slices.Equal(list[0].RepoDigests, []string{"mirrored@" + i.ID}) {
		t.Errorf("images without a tag: %+v, %v", list, err)
	}
	if _, err := l.engine.RemoveImage(t.Context(), pinned, false); err != nil {
		t.Error(err)
	}
}

func TestPullWithPassword(t *testing.T) {
	l := real(t)
	var asked atomic.Int32
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if u, p, _ := r.BasicAuth(); u != "fish" || p != "water" {
			w.Header().Set("WWW-Authenticate", `Basic realm="sea"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	img, err := busybox("secret")
	if err != nil {
		t.Fatal(err)
	}
	ref := srv.Listener.Addr().String() + "/deep/sea:1"
	n, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n, img, remote.WithAuth(&authn.Basic{Username: "fish", Password: "water"})); err != nil {
		t.Fatal(err)
	}
	for what, auth := range map[string]*apiregistry.AuthConfig{"none": nil, "wrong": {Username: "fish", Password: "air"}} {
		err := l.engine.Pull(t.Context(), ref, engine.PullOptions{Auth: auth}, nil)
		if err == nil || !strings.Contains(err.Error(), "pull access denied for "+strings.TrimSuffix(ref, ":1")) || !errdefs.IsNotFound(err) {
			t.Errorf("password %s: %v; want access denied", what, err)
		}
	}
	if err := l.engine.Pull(t.Context(), ref, engine.PullOptions{Auth: &apiregistry.AuthConfig{Username: "fish", Password: "water"}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := l.engine.RemoveImage(t.Context(), ref, false); err != nil {
		t.Error(err)
	}
}

// An image under two names: removing one leaves the other.
func TestTwoNames(t *testing.T) {
	l := real(t)
	img, err := busybox("twice")
	if err != nil {
		t.Fatal(err)
	}
	a, b := l.push(t, "two/a:1", img), l.push(t, "two/b:1", img)
	for _, ref := range []string{a, b} {
		if err := l.engine.Pull(t.Context(), ref, engine.PullOptions{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	i, err := l.engine.InspectImage(t.Context(), a, nil)
	if err != nil || !slices.Equal(i.RepoTags, []string{a, b}) {
		t.Fatalf("tags %q, %v", i.RepoTags, err)
	}
	_, err = l.engine.RemoveImage(t.Context(), i.ID, false)
	if err == nil || !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "(must be forced) - image is referenced in multiple repositories") {
		t.Errorf("removal by ID: %v", err)
	}
	gone, err := l.engine.RemoveImage(t.Context(), a, false)
	if err != nil || len(gone) != 1 || gone[0].Untagged != a {
		t.Errorf("removal of one name: %+v, %v", gone, err)
	}
	if _, err := l.engine.RemoveImage(t.Context(), b, false); err != nil {
		t.Error(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	l := real(t)
	if _, err := l.engine.Load(t.Context(), strings.NewReader("this is no archive")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("load of nonsense: %v", err)
	}
}
