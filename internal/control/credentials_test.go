package control_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func login(user string) string {
	return base64.URLEncoding.EncodeToString([]byte(`{"username":"` + user + `","password":"canary"}`))
}

// TestCredentialsOfAService follows what a service's nodes pull with through its updates.
func TestCredentialsOfAService(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	sp := spec("web", 1)
	at := func(image string) swarm.ServiceSpec {
		n := sp
		n.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: image}
		return n
	}
	r, err := c.CreateService(t.Context(), at("a.example/x:1"), login("one"), false)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, want map[string]string) {
		t.Helper()
		var have map[string]string
		if rec, ok := store.Get[*cluster.Credentials](s.Snapshot(), r.ID); ok {
			have = rec.Auth
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	update := func(image string, o control.UpdateOptions) {
		t.Helper()
		svc, _ := store.Get[*cluster.Service](s.Snapshot(), r.ID)
		if _, err := c.UpdateService(t.Context(), r.ID, svc.Version.Index, at(image), o); err != nil {
			t.Fatal(err)
		}
	}
	check("created", map[string]string{"a.example/x": login("one")})
	update("a.example/x:2", control.UpdateOptions{})
	check("an update keeps them", map[string]string{"a.example/x": login("one")})
	update("a.example/x:2", control.UpdateOptions{EncodedAuth: login("two")})
	check("an update renews them", map[string]string{"a.example/x": login("two")})
	update("a.example/y:1", control.UpdateOptions{})
	check("another image of the registry", map[string]string{"a.example/x": login("two"), "a.example/y": login("two")})
	update("b.example/y:1", control.UpdateOptions{})
	check("another registry gets none", map[string]string{"a.example/y": login("two")})
	update("b.example/y:2", control.UpdateOptions{EncodedAuth: login("three")})
	check("what nothing uses is forgotten", map[string]string{"b.example/y": login("three")})
	update("a.example/x:1", control.UpdateOptions{EncodedAuth: login("four")})
	check("each registry has its own", map[string]string{"a.example/x": login("four"), "b.example/y": login("three")})
	update("", control.UpdateOptions{Rollback: "previous"})
	check("the way back", map[string]string{"a.example/x": login("four"), "b.example/y": login("three")})
	update("b.example/y:2", control.UpdateOptions{EncodedAuth: "e30="})
	check("taken away", nil)

	// What cannot be credentials is refused, and nothing changes.
	before := s.Index()
	svc, _ := store.Get[*cluster.Service](s.Snapshot(), r.ID)
	for _, o := range []control.UpdateOptions{{EncodedAuth: "%%%"}, {EncodedAuth: strings.Repeat("A", 65<<10)}} {
		if _, err := c.UpdateService(t.Context(), r.ID, svc.Version.Index, at("a.example/x:3"), o); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "invalid X-Registry-Auth header: ") {
			t.Errorf("credentials %.10s: %v", o.EncodedAuth, err)
		}
	}
	other := mustCreate(t, c, spec("other", 1))
	svc, _ = store.Get[*cluster.Service](s.Snapshot(), other)
	if _, err := c.UpdateService(t.Context(), other, svc.Version.Index, spec("other", 2), control.UpdateOptions{RegistryAuthFrom: swarm.RegistryAuthFromPreviousSpec}); !errdefs.IsInvalidArgument(err) || err.Error() != "service does not have a previous spec" {
		t.Errorf("credentials of a specification that is not there: %v", err)
	}
	if got := s.Index(); got != before+1 {
		t.Errorf("refusals wrote: %d", got-before)
	}

	update("a.example/x:9", control.UpdateOptions{EncodedAuth: login("five")})
	if err := c.RemoveService(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	check("removed", nil)
}

// guarded is a registry that knows one user.
type guarded struct{ user string }

func (g guarded) Distribution(_ context.Context, ref string, auth *registry.AuthConfig) (*registry.DistributionInspect, error) {
	if auth.Username != g.user {
		return nil, errdefs.ErrUnauthenticated.WithMessage("no basic auth credentials")
	}
	d := &registry.DistributionInspect{}
	d.Descriptor.Digest = testDigest
	return d, nil
}

// TestWhenAnUpdatePins says which updates get a digest from the manager: see Control.pinChanged.
func TestWhenAnUpdatePins(t *testing.T) {
	at := func(image string) swarm.ServiceSpec {
		sp := spec("web", 1)
		sp.TaskTemplate.ContainerSpec.Image = image
		return sp
	}
	pinned := "@" + testDigest.String()
	for name, tc := range map[string]struct {
		from, to    string
		first, auth string
		query       bool
		want        string
		warns       bool
	}{
		"another tag":               {from: "hello:1" + pinned, to: "hello:2", first: login("one"), want: "hello:2" + pinned},
		"with new credentials":      {from: "hello:1" + pinned, to: "hello:2", auth: login("one"), want: "hello:2" + pinned},
		"without credentials":       {from: "hello:1" + pinned, to: "hello:2", want: "hello:2", warns: true},
		"the same":                  {from: "hello:1" + pinned, to: "hello:1" + pinned, want: "hello:1" + pinned},
		"a digest of the user's":    {from: "hello:1" + pinned, to: "hello@sha256:" + strings.Repeat("1", 64), want: "hello@sha256:" + strings.Repeat("1", 64)},
		"one that was never pinned": {from: "hello:1", to: "hello:2", first: login("one"), want: "hello:2"},
		"an old client":             {from: "hello:1", to: "hello:2", first: login("one"), query: true, want: "hello:2" + pinned},
	} {
		_, s := newControl(t, fakeRegistry{})
		c := control.New(guarded{"one"})
		c.Activate(&control.Manager{NodeID: "node1id", Store: s, ReadBarrier: func(context.Context) error { return nil }, Leader: func() string { return "node1id" }})
		r, err := c.CreateService(t.Context(), at(tc.from), tc.first, false)
		if err != nil {
			t.Fatal(err)
		}
		svc, _ := store.Get[*cluster.Service](s.Snapshot(), r.ID)
		u, err := c.UpdateService(t.Context(), "web", svc.Version.Index, at(tc.to), control.UpdateOptions{EncodedAuth: tc.auth, QueryRegistry: tc.query})
		if err != nil {
			t.Fatal(err)
		}
		svc, _ = store.Get[*cluster.Service](s.Snapshot(), r.ID)
		if got := svc.Spec.TaskTemplate.ContainerSpec.Image; got != tc.want || len(u.Warnings) > 0 != tc.warns {
			t.Errorf("%s: %s, want %s; warnings %q", name, got, tc.want, u.Warnings)
		}
		if !tc.warns {
			continue
		}
		// The way back from an image that could not be found is to what was there.
		if _, err = c.UpdateService(t.Context(), "web", svc.Version.Index, at("hello:1"), control.UpdateOptions{EncodedAuth: login("one")}); err != nil {
			t.Fatal(err)
		}
		svc, _ = store.Get[*cluster.Service](s.Snapshot(), r.ID)
		if got := svc.Spec.TaskTemplate.ContainerSpec.Image; got != tc.from {
			t.Errorf("%s, and back: %s, want %s", name, got, tc.from)
		}
	}
}
