package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"shoal.dev/shoal/internal/engine"
)

// hostile is a registry that holds one image of layers that are like no other, and does to requests what spoil says:
// true if it has answered. honest is the registry behind it.
func (l *lab) hostile(t *testing.T, spoil func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool) (ref string, img v1.Image) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var armed atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if armed.Load() && spoil(w, r, inner) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections) // of handlers that hang
	img, err := random.Image(300_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref = srv.Listener.Addr().String() + "/sea/monster:1"
	n, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n, img); err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	return ref, img
}

// withStall lets registries be silent for d only.
func (l *lab) withStall(t *testing.T, d time.Duration) {
	t.Helper()
	l.with(t, func(r *registries) { r.stall = d })
}

// traces is what a transfer may leave behind.
type traces struct{ Ingests, Leases, Goroutines int }

func (l *lab) traces(t *testing.T) traces {
	t.Helper()
	ctx := l.engine.scope(context.Background())
	ingests, err := l.engine.client.ContentStore().ListStatuses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := l.engine.client.LeasesService().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return traces{len(ingests), len(ls), runtime.NumGoroutine()}
}

// cleanAfter fails the test if it leaves ingests, leases or goroutines.
func (l *lab) cleanAfter(t *testing.T) {
	t.Helper()
	before := l.traces(t)
	t.Cleanup(func() {
		l.engine.registries.strict.CloseIdleConnections()
		l.engine.registries.lax.CloseIdleConnections()
		var after traces
		if !poll(10*time.Second, func() bool {
			l.engine.registries.lax.CloseIdleConnections()
			after = l.traces(t)
			return after.Ingests <= before.Ingests && after.Leases <= before.Leases && after.Goroutines <= before.Goroutines+2
		}) {
			t.Errorf("left behind: before %+v, after %+v", before, after)
		}
	})
}

func isBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}
func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// hang answers nothing until the client goes.
func hang(r *http.Request) { <-r.Context().Done() }

func TestHostileRegistry(t *testing.T) {
	l := real(t)
	l.withStall(t, 300*time.Millisecond)
	const limit = 20 * time.Second // far above what any of these takes, far below for ever
	silent := "has been silent for 300ms"
	for _, test := range []struct {
		name  string
		spoil func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool
		words string // REF stands for the reference, HOST for the registry
		class func(error) bool
	}{
		{"never answers", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool { hang(r); return true },
			"cannot pull REF: .*HOST " + silent, errdefs.IsUnavailable},
		{"hangs in the middle of a layer", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			sendPart(w, r, honest, 0.5)
			hang(r)
			return true
		}, "cannot pull REF: .*HOST " + silent, errdefs.IsUnavailable},
		{"always cuts off", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			sendPart(w, r, honest, 0)
			panic(http.ErrAbortHandler)
		}, "cannot pull REF: ", errdefs.IsUnavailable},
		{"sends another blob", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			rec := httptest.NewRecorder()
			honest.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			b[len(b)/2] ^= 1
			_, _ = w.Write(b)
			return true
		}, "cannot pull REF: .*unexpected commit digest", errdefs.IsUnavailable},
		{"sends more than it says", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			w.WriteHeader(http.StatusOK)
			for junk := make([]byte, 64<<10); ; {
				if _, err := w.Write(junk); err != nil {
					return true
				}
			}
		}, "cannot pull REF: ", errdefs.IsUnavailable},
		{"another manifest than it says", func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
			if !isManifest(r) || r.Method != http.MethodGet {
				return false
			}
			_, _ = io.WriteString(w, `{"schemaVersion":2}`)
			return true
		}, "cannot pull REF: ", errdefs.IsUnavailable},
		{"a huge manifest", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !isManifest(r) {
				return false
			}
			h := w.Header()
			h.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			h.Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
			h.Set("Content-Length", fmt.Sprint(1<<33))
			if r.Method == http.MethodGet {
				junk := make([]byte, 64<<10)
				for {
					if _, err := w.Write(junk); err != nil {
						return true
					}
				}
			}
			return true
		}, "cannot pull REF: .*the registry HOST sent a manifest of more than 4393216 bytes, which is the most that is read", errdefs.IsUnavailable},
		{"a manifest that does not end", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !isManifest(r) {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			if r.Method != http.MethodGet {
				return true
			}
			for junk := make([]byte, 64<<10); ; {
				if _, err := w.Write(junk); err != nil {
					return true
				}
			}
		}, "cannot pull REF: .*the registry HOST sent a manifest of more than 4393216 bytes, which is the most that is read", errdefs.IsUnavailable},
		{"too many requests", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
			return true
		}, "", errdefs.IsUnavailable},
		{"broken", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			http.Error(w, "out of fish", http.StatusInternalServerError)
			return true
		}, "cannot pull REF: .*500 Internal Server Error", errdefs.IsUnavailable},
		{"never satisfied with a token", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.URL.Path == "/token" {
				_ = json.NewEncoder(w).Encode(map[string]string{"token": "t"})
				return true
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return true
		}, "pull access denied for REPO, repository does not exist or may require 'docker login'", errdefs.IsNotFound},
		{"redirects for ever", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, "cannot pull REF: .*stopped after 10 redirects", errdefs.IsUnavailable},
		{"nonsense", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			_, _ = io.WriteString(w, "<html>welcome to the hotel</html>")
			return true
		}, "cannot pull REF: .*the registry HOST sent a web page instead of a manifest", errdefs.IsUnavailable},
		{"something else", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
			return true
		}, "cannot pull REF: the registry sent application/json instead of a manifest", errdefs.IsUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.cleanAfter(t)
			ref, _ := l.hostile(t, test.spoil)
			host, _, _ := strings.Cut(ref, "/")
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			err := l.engine.Pull(ctx, ref, engine.PullOptions{}, nil)
			if ctx.Err() != nil {
				t.Fatalf("the pull went on until its context ended: %v", err)
			}
			words := strings.NewReplacer("REF", ref, "REPO", strings.TrimSuffix(ref, ":1"), "HOST", host).Replace(test.words)
			if err == nil || !test.class(err) || !inOrder(err.Error(), strings.Split(words, ".*")) {
				t.Errorf("error %v; want %q", err, words)
			}
			if _, err := l.engine.InspectImage(t.Context(), ref, nil); !errdefs.IsNotFound(err) {
				t.Errorf("something of the image is here: %v", err)
			}
		})
	}
}

// inOrder says whether s has all parts, one after the other.
func inOrder(s string, parts []string) bool {
	for _, p := range parts {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return true
}

// sendPart answers as the honest registry does, but sends only a part of the body that its header announces.
func sendPart(w http.ResponseWriter, r *http.Request, honest http.Handler, part float64) {
	rec := httptest.NewRecorder()
	honest.ServeHTTP(rec, r)
	b := rec.Body.Bytes()
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(b[:int(float64(len(b))*part)])
	_ = http.NewResponseController(w).Flush()
}

// A pull that somebody ends ends at once and leaves nothing, whatever the registry does.
func TestPullEndsWithItsContext(t *testing.T) {
	l := real(t)
	l.cleanAfter(t)
	waits := make(chan struct{}, 8)
	ref, _ := l.hostile(t, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !isBlob(r) {
			return false
		}
		waits <- struct{}{}
		hang(r)
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.engine.Pull(ctx, ref, engine.PullOptions{}, nil) }()
	<-waits
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the pull goes on")
	}
}

// A layer that is cut off goes on where it was, and what came is not asked for again.
func TestPullGoesOn(t *testing.T) {
	l := real(t)
	l.cleanAfter(t)
	var cuts, ranges atomic.Int32
	ref, _ := l.hostile(t, func(w http.ResponseWriter, r *http.Request, honest http.Handler) bool {
		if !isBlob(r) {
			return false
		}
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
			whole := httptest.NewRecorder()
			plain := r.Clone(r.Context())
			plain.Header.Del("Range")
			honest.ServeHTTP(whole, plain)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(whole.Body.Bytes()))
			return true
		}
		if cuts.Add(1) > 2 {
			return false
		}
		sendPart(w, r, honest, 0.5)
		panic(http.ErrAbortHandler)
	})
	err := l.engine.Pull(t.Context(), ref, engine.PullOptions{}, nil)
	// The layers are no archives, so that the image cannot be used; that all of it came shows in the words.
	if err != nil && !strings.Contains(err.Error(), "unpack") && !strings.Contains(err.Error(), "extract") && !strings.Contains(err.Error(), "tar") {
		t.Errorf("pull: %v", err)
	}
	if cuts.Load() < 1 || ranges.Load() == 0 {
		t.Errorf("%d cuts, %d requests for the rest", cuts.Load(), ranges.Load())
	}
	if err == nil {
		if _, err := l.engine.RemoveImage(t.Context(), ref, true); err != nil {
			t.Error(err)
		}
	}
}

// A push to a registry that takes nothing ends.
func TestPushStalls(t *testing.T) {
	l := real(t)
	l.withStall(t, 300*time.Millisecond)
	l.cleanAfter(t)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hang(r) }))
	defer srv.Close()
	defer srv.CloseClientConnections()
	ref := srv.Listener.Addr().String() + "/deep/sea:1"
	if err := l.engine.TagImage(t.Context(), "busybox:test", ref); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = l.engine.RemoveImage(context.Background(), ref, false) }()
	err := l.engine.Push(t.Context(), ref, engine.PushOptions{}, nil)
	if !errdefs.IsUnavailable(err) || !inOrder(err.Error(), []string{"cannot push " + ref, srv.Listener.Addr().String() + " has been silent for 300ms"}) {
		t.Errorf("push: %v", err)
	}
}

// A body may take as long as it likes while bytes move, and rest while nobody reads it.
func TestPatience(t *testing.T) {
	const limit = 200 * time.Millisecond
	step := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 4 {
			select {
			case <-step:
			case <-r.Context().Done():
				return
			}
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer srv.Close()
	c := &http.Client{Transport: patient{http.DefaultTransport, limit}}
	go func() { step <- struct{}{} }()
	resp, err := c.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 1)
	if _, err := resp.Body.Read(b); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * limit) // nobody reads
	for range 3 {
		go func() { step <- struct{}{} }()
		if n, err := resp.Body.Read(b); n != 1 {
			t.Fatal(err)
		}
	}
	srv2 := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hang(r) }))
	defer srv2.Close()
	defer srv2.CloseClientConnections()
	if _, err := c.Get(srv2.URL); !errors.Is(err, errStalled) {
		t.Errorf("a server that is silent: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}
