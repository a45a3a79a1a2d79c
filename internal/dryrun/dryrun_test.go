package dryrun

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/store"
)

type noRegistry struct{}

func (noRegistry) Distribution(context.Context, string, *registry.AuthConfig) (*registry.DistributionInspect, error) {
	return nil, io.ErrUnexpectedEOF
}

// managerOf is the API of a manager with dry runs, and its store.
func managerOf(t *testing.T) (*Runs, http.Handler, *store.Store) {
	t.Helper()
	s := store.New()
	store.NewLocal(s)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		sw := &cluster.Swarm{}
		sw.ID = "swarmid"
		tx.Write(store.Create(sw))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ctl := control.New(noRegistry{})
	ctl.Activate(&control.Manager{
		NodeID: "n1", Store: s, ReadBarrier: func(context.Context) error { return nil },
		Leader: func() string { return "n1" }, MayDemote: func(string) error { return nil },
	})
	r := New(Config{Control: ctl, Host: func() []network.Inspect { return nil }})
	return r, r.Wrap(httpapi.New(httpapi.Config{Control: ctl, DryRuns: r})), s
}

func ask(t *testing.T, h http.Handler, id, method, path, body string) (int, string) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if id != "" {
		req.Header.Set(Header, id)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

func open(t *testing.T, r *Runs) string {
	t.Helper()
	id, err := r.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const web = `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"hello:1"}}}`

// What is tried is in its own copy: not in the swarm, and not in another's.
func TestCopies(t *testing.T) {
	r, h, s := managerOf(t)
	a, b := open(t, r), open(t, r)
	index := s.Index()
	if code, out := ask(t, h, a, "POST", "/v1.52/services/create", web); code != http.StatusCreated {
		t.Fatal(code, out)
	}
	if code, out := ask(t, h, a, "GET", "/v1.52/services", ""); code != http.StatusOK || !strings.Contains(out, `"web"`) {
		t.Errorf("the copy does not have it: %d %s", code, out)
	}
	for _, other := range []string{b, ""} {
		if code, out := ask(t, h, other, "GET", "/services", ""); code != http.StatusOK || strings.TrimSpace(out) != "[]" {
			t.Errorf("another has it: %d %s", code, out)
		}
	}
	if s.Index() != index {
		t.Error("the swarm was written to")
	}
	changes, err := r.Changes(t.Context(), a)
	if err != nil || len(changes) != 1 || changes[0].Kind != "service" || changes[0].Action != "create" || changes[0].Tasks.Started != 1 {
		t.Errorf("%+v, %v", changes, err)
	}
	r.End(a)
	if code, out := ask(t, h, a, "GET", "/services", ""); code != http.StatusNotFound {
		t.Errorf("one that has ended answers %d %s", code, out)
	}
}

// What is refused in the swarm is refused in a dry run, and what is not the swarm's cannot be tried.
func TestRefusals(t *testing.T) {
	r, h, _ := managerOf(t)
	if code, out := ask(t, h, "", "POST", "/services/create", web); code != http.StatusCreated {
		t.Fatal(code, out)
	}
	id := open(t, r)
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"POST", "/services/create", web, http.StatusConflict, "name conflicts with an existing object"},
		{"DELETE", "/services/nothing", "", http.StatusNotFound, "service nothing not found"},
		{"POST", "/containers/create", "{}", http.StatusNotImplemented, "POST /containers/create cannot be tried"},
		{"POST", "/swarm/leave", "", http.StatusNotImplemented, "cannot be tried"},
		{"POST", "/v1.50/networks/prune", "", http.StatusNotImplemented, "cannot be tried"},
		{"POST", "/networks/create", `{"Name":"x","Driver":"bridge"}`, http.StatusNotImplemented, "changes of a host's own networks cannot be tried"},
		{"GET", "/_ping", "", http.StatusOK, "OK"},
	} {
		if code, out := ask(t, h, id, c.method, c.path, c.body); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, code, out, c.code, c.want)
		}
	}
	if changes, err := r.Changes(t.Context(), id); err != nil || len(changes) != 0 {
		t.Errorf("refused requests changed %+v, %v", changes, err)
	}
}

// A node that is no manager has nothing to copy.
func TestNoManager(t *testing.T) {
	ctl := control.New(noRegistry{})
	r := New(Config{Control: ctl})
	if _, err := r.Open(t.Context()); err == nil || err.Error() != control.NotInSwarm {
		t.Errorf("%v", err)
	}
}

// Dry runs are bounded in number, and those that nobody asks for are forgotten.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, h, _ := managerOf(t)
		first := open(t, r)
		for range maxRuns - 1 {
			open(t, r)
		}
		if _, err := r.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "16 dry runs are under way") {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(idle)
		if code, _ := ask(t, h, first, "GET", "/services", ""); code != http.StatusOK {
			t.Errorf("after %s: %d", idle, code)
		}
		time.Sleep(time.Second)
		if open(t, r); len(r.runs) != 2 {
			t.Errorf("%d are kept, want the one that was asked for and the new one", len(r.runs))
		}
	})
}

func TestFields(t *testing.T) {
	two, three := uint64(2), uint64(3)
	spec := func(n *uint64, env []string, args []string, ports ...swarm.PortConfig) swarm.ServiceSpec {
		s := swarm.ServiceSpec{Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: n}}, EndpointSpec: &swarm.EndpointSpec{Ports: ports}}
		s.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Env: env, Args: args}
		return s
	}
	port := func(target, published uint32) swarm.PortConfig {
		return swarm.PortConfig{Protocol: "tcp", TargetPort: target, PublishedPort: published}
	}
	for name, c := range map[string]struct {
		from, to any
		want     []httpapi.DryRunField
	}{
		"equal":              {spec(&two, []string{"A=1"}, nil), spec(&two, []string{"A=1"}, []string{}), nil},
		"a number":           {spec(&two, nil, nil), spec(&three, nil, nil), []httpapi.DryRunField{{Path: "Mode.Replicated.Replicas", From: "2", To: "3"}}},
		"order of variables": {spec(&two, []string{"A=1", "B=2"}, nil), spec(&two, []string{"B=2", "A=1"}, nil), nil},
		"a variable": {spec(&two, []string{"A=1", "B=2"}, nil), spec(&two, []string{"A=", "B=2"}, nil),
			[]httpapi.DryRunField{{Path: "TaskTemplate.ContainerSpec.Env[A]", From: "1", To: `""`}}},
		"order of arguments": {spec(&two, nil, []string{"a", "b"}), spec(&two, nil, []string{"b", "a"}), []httpapi.DryRunField{
			{Path: "TaskTemplate.ContainerSpec.Args[0]", From: "a", To: "b"}, {Path: "TaskTemplate.ContainerSpec.Args[1]", From: "b", To: "a"}}},
		"a port before another": {spec(&two, nil, nil, port(80, 8080)), spec(&two, nil, nil, port(443, 8443), port(80, 8080)), []httpapi.DryRunField{
			{Path: "EndpointSpec.Ports[443/tcp].Protocol", To: "tcp"}, {Path: "EndpointSpec.Ports[443/tcp].PublishedPort", To: "8443"},
			{Path: "EndpointSpec.Ports[443/tcp].TargetPort", To: "443"}}},
		"a port twice": {spec(&two, nil, nil, port(80, 8080)), spec(&two, nil, nil, port(80, 8080), port(80, 8081)), []httpapi.DryRunField{
			{Path: "EndpointSpec.Ports[80/tcp#2].Protocol", To: "tcp"}, {Path: "EndpointSpec.Ports[80/tcp#2].PublishedPort", To: "8081"},
			{Path: "EndpointSpec.Ports[80/tcp#2].TargetPort", To: "80"}}},
		"nothing before": {nil, map[string]any{"A": true, "B": "", "C": nil}, []httpapi.DryRunField{{Path: "A", To: "true"}}},
	} {
		got, err := fields(c.from, c.to)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
