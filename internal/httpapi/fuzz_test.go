package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

func FuzzFilters(f *testing.F) {
	for _, s := range []string{"", "{}", "null", `{"label":{"a=b":true,"c":false}}`, `{"name":["b","a","a"]}`, `{"a":7}`, `[`, `{"a":{"b":1}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFilters(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || err.Error() != "invalid filter" || got != nil {
				t.Fatalf("%q: %v, %v", s, got, err)
			}
			return
		}
		for k, vs := range got {
			if len(vs) == 0 || !slices.IsSorted(vs) {
				t.Fatalf("%q: values of %q are %q", s, k, vs)
			}
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseFilters(string(b))
		if err != nil || len(again) != len(got) {
			t.Fatalf("%q: read again: %v, %v", s, again, err)
		}
	})
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"", "0", "1136073600.000000001", "-1", "1.", ".5", "1.-5", "9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTime("since", s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || !got.IsZero() {
				t.Fatalf("%q: %v, %v", s, got, err)
			}
			return
		}
		_ = got.Add(time.Second)
	})
}

// FuzzRequest asks an API without backends: nothing that comes in may crash it or be answered by anything but JSON.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/v1.56/info", "a=b", "", "")
	f.Add("POST", "/v1.30/services/create", "", "application/json", `{"Name":"a"}`)
	f.Add("POST", "/images/create", "fromImage=a&tag=b", "", base64.URLEncoding.EncodeToString([]byte(`{"username":"u"}`)))
	f.Add("GET", "/v1.56//", "%zz", "x", "x")
	h := New(Config{})
	f.Fuzz(func(t *testing.T, method, path, query, contentType, body string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		r.Header.Set("Content-Type", contentType)
		r.Header.Set(registry.AuthHeader, body)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 400 && method != http.MethodHead {
			var m struct{ Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || m.Message == "" || w.Code == http.StatusInternalServerError {
				t.Fatalf("%s %s: %d %q", method, path, w.Code, w.Body)
			}
		}
	})
}

func FuzzAuth(f *testing.F) {
	f.Add("")
	f.Add("e30=")
	f.Add("eyJ1c2VybmFtZSI6InUifQ==")
	f.Add("YWJj")
	f.Fuzz(func(t *testing.T, s string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header[registry.AuthHeader] = []string{s}
		if a := (&call{Request: r}).auth(); a != nil && *a == (registry.AuthConfig{}) {
			t.Fatalf("%q: empty credentials instead of none", s)
		}
	})
}

// TestRoutes shows that no route hides another one, so that each can be reached.
func TestRoutes(t *testing.T) {
	a := &api{}
	rt := newRouter(a.routes())
	seen := map[string]bool{}
	for _, r := range a.routes() {
		if seen[r.key()] {
			t.Errorf("%s stands twice", r.key())
		}
		seen[r.key()] = true
		path := r.pattern
		for _, v := range []string{"{name*}", "{id}"} {
			path = strings.ReplaceAll(path, v, "x")
		}
		if got, _ := rt.find(r.method, path); got == nil || got.key() != r.key() {
			t.Errorf("%s %s finds %v", r.method, path, got)
		}
	}
	for path, want := range map[string]string{
		"/images/registry.example:5000/a/b:1/json": "registry.example:5000/a/b:1",
		"/images/json/json":                        "json",
	} {
		if r, v := rt.find("GET", path); r == nil || r.pattern != "/images/{name*}/json" || v != want {
			t.Errorf("%s finds %v %q", path, r, v)
		}
	}
	if r, _ := rt.find("GET", "/services/a/b"); r != nil {
		t.Errorf("/services/a/b finds %s", r.key())
	}
}

func TestSplitVersion(t *testing.T) {
	for path, want := range map[string][2]string{
		"/v1.56/info":   {"1.56", "/info"},
		"/info":         {"", "/info"},
		"/v1.56":        {"", "/v1.56"},
		"/version":      {"", "/version"},
		"/volumes/a":    {"", "/volumes/a"},
		"/v1.24/":       {"1.24", "/"},
		"/v1x/info":     {"", "/v1x/info"},
		"/v/info":       {"", "/v/info"},
		"":              {"", ""},
		"/v1.2.3//info": {"1.2.3", "//info"},
	} {
		if v, rest := splitVersion(path); v != want[0] || rest != want[1] {
			t.Errorf("%q: %q %q", path, v, rest)
		}
	}
}
