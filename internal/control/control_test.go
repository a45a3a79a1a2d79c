package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/opencontainers/go-digest"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

type fakeRegistry struct{ err error }

const testDigest = digest.Digest("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")

func (f fakeRegistry) Distribution(context.Context, string, *registry.AuthConfig) (*registry.DistributionInspect, error) {
	if f.err != nil {
		return nil, f.err
	}
	d := &registry.DistributionInspect{}
	d.Descriptor.Digest = testDigest
	return d, nil
}

func newControl(t *testing.T, reg fakeRegistry) (*control.Control, *store.Store) {
	t.Helper()
	s := store.New()
	store.NewLocal(s)
	node := &cluster.Node{}
	node.ID, node.Description.Hostname = "node1id", "node1"
	node.Spec = swarm.NodeSpec{Role: swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityActive}
	node.Status.State = swarm.NodeStateReady
	node.ManagerStatus = &swarm.ManagerStatus{Addr: "198.18.0.1:2377"}
	sw := &cluster.Swarm{}
	sw.ID = "swarmid"
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(node))
		tx.Write(store.Create(sw))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c := control.New(reg)
	c.Activate(&control.Manager{
		NodeID: "node1id", Store: s, ReadBarrier: func(context.Context) error { return nil },
		Leader: func() string { return "node1id" },
		MayDemote: func(string) error {
			return errdefs.ErrFailedPrecondition.WithMessage("attempting to demote the last manager of the swarm")
		},
	})
	return c, s
}

func spec(name string, replicas uint64, ports ...swarm.PortConfig) swarm.ServiceSpec {
	s := swarm.ServiceSpec{}
	s.Name = name
	s.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	s.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
	if len(ports) > 0 {
		s.EndpointSpec = &swarm.EndpointSpec{Ports: ports}
	}
	return s
}

func port(published, target uint32) swarm.PortConfig {
	return swarm.PortConfig{Protocol: "tcp", PublishedPort: published, TargetPort: target, PublishMode: swarm.PortConfigPublishModeIngress}
}

func mustCreate(t *testing.T, c *control.Control, s swarm.ServiceSpec) string {
	t.Helper()
	r, err := c.CreateService(t.Context(), s, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func TestRefusalsChangeNothingAndSayWhy(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	id := mustCreate(t, c, spec("web", 1, port(8080, 80)))
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	update := func(version uint64, change func(*swarm.ServiceSpec)) error {
		sp := spec("web", 1, port(8080, 80))
		change(&sp)
		_, err := c.UpdateService(t.Context(), "web", version, sp, control.UpdateOptions{})
		return err
	}
	create := func(sp swarm.ServiceSpec) error {
		_, err := c.CreateService(t.Context(), sp, "", false)
		return err
	}
	before := s.Index()
	for name, tc := range map[string]struct {
		err  error
		is   error
		text string
	}{
		"name taken":    {create(spec("web", 1)), errdefs.ErrAlreadyExists, "name conflicts with an existing object: service web already exists"},
		"port taken":    {create(spec("api", 1, port(8080, 80))), errdefs.ErrInvalidArgument, "port '8080' is already in use by service 'web' (" + id + ") as an ingress port"},
		"no image":      {create(swarm.ServiceSpec{Annotations: swarm.Annotations{Name: "x"}}), errdefs.ErrInvalidArgument, ""},
		"stale version": {update(svc.Version.Index-1, func(*swarm.ServiceSpec) {}), errdefs.ErrUnknown, "update out of sequence"},
		"rename":        {update(svc.Version.Index, func(s *swarm.ServiceSpec) { s.Name = "other" }), errdefs.ErrNotImplemented, "renaming services is not supported"},
		"no way back": {func() error {
			_, err := c.UpdateService(t.Context(), "web", svc.Version.Index, spec("web", 1), control.UpdateOptions{Rollback: "previous"})
			return err
		}(), errdefs.ErrFailedPrecondition, "service " + id + " does not have a previous spec"},
		"unknown service": {c.RemoveService(t.Context(), "nope"), errdefs.ErrNotFound, "service nope not found"},
		"unknown node":    {c.RemoveNode(t.Context(), "nope", true), errdefs.ErrNotFound, "node nope not found"},
		"bad availability": {c.UpdateNode(t.Context(), "node1", 1, swarm.NodeSpec{Role: "manager", Availability: "maybe"}), errdefs.ErrInvalidArgument,
			`invalid Availability: "maybe"`},
		"last manager":    {c.UpdateNode(t.Context(), "node1", 1, swarm.NodeSpec{Role: "worker", Availability: "active"}), errdefs.ErrFailedPrecondition, "last manager"},
		"bad role":        {c.UpdateNode(t.Context(), "node1", 1, swarm.NodeSpec{Role: "king", Availability: "active"}), errdefs.ErrInvalidArgument, `invalid Role: "king"`},
		"manager removed": {c.RemoveNode(t.Context(), "node1", true), errdefs.ErrFailedPrecondition, "is a cluster manager"},
		"unknown filter": {func() error {
			_, err := c.Services(t.Context(), map[string][]string{"color": {"red"}}, false)
			return err
		}(),
			errdefs.ErrInvalidArgument, "invalid filter 'color'"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.err == nil || !errors.Is(tc.err, tc.is) || !strings.Contains(tc.err.Error(), tc.text) {
				t.Errorf("got %v, want %q of class %v", tc.err, tc.text, tc.is)
			}
		})
	}
	if s.Index() != before {
		t.Errorf("a refused request changed the store: entry %d, was %d", s.Index(), before)
	}
}

func TestAPortIsFreeAgainAfterItsService(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	mustCreate(t, c, spec("web", 1, port(8080, 80), port(8081, 81)))
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	// An update that drops a port frees it at once, and keeps the other.
	if _, err := c.UpdateService(t.Context(), "web", svc.Version.Index, spec("web", 1, port(8081, 81)), control.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, c, spec("two", 0, port(8080, 80)))
	if _, err := c.CreateService(t.Context(), spec("three", 0, port(8081, 80)), "", false); err == nil {
		t.Error("port 8081 was given twice")
	}
	for _, name := range []string{"web", "two"} {
		if err := c.RemoveService(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, c, spec("web", 0, port(8080, 80), port(8081, 80)))
	if err := c.RemoveService(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	for cl := range store.List[*cluster.Claim](s.Snapshot()) {
		t.Errorf("claim %s of %s is left", cl.ID, cl.OwnerName)
	}
}

func TestScale(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	mustCreate(t, c, spec("web", 1))
	svc, err := c.Service(t.Context(), "web", true) // as the client reads it before it writes
	if err != nil {
		t.Fatal(err)
	}
	sp := svc.Spec
	six := uint64(6)
	sp.Mode.Replicated = &swarm.ReplicatedService{Replicas: &six}
	if _, err := c.UpdateService(t.Context(), svc.ID, svc.Version.Index, sp, control.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Service(t.Context(), svc.ID[:12], false)
	if err != nil || *got.Spec.Mode.Replicated.Replicas != 6 || got.PreviousSpec == nil || *got.PreviousSpec.Mode.Replicated.Replicas != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestImageIsPinnedOrWarnedOf(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	r, err := c.CreateService(t.Context(), spec("web", 1), "", true)
	if err != nil || len(r.Warnings) != 0 {
		t.Fatal(r, err)
	}
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	if want := "hello:1@" + testDigest.String(); svc.Spec.TaskTemplate.ContainerSpec.Image != want {
		t.Errorf("image %q, want %q", svc.Spec.TaskTemplate.ContainerSpec.Image, want)
	}
	c, _ = newControl(t, fakeRegistry{errors.New("no route")})
	r, err = c.CreateService(t.Context(), spec("web", 1), "", true)
	if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "image hello:1 could not be accessed on a registry to record its digest") {
		t.Fatal(r, err)
	}
}

func TestNoManagerSaysHowToBecomeOne(t *testing.T) {
	c := control.New(fakeRegistry{})
	for _, why := range []string{control.NotInSwarm, control.NotManager} {
		c.Deactivate(why)
		_, err := c.Services(t.Context(), nil, false)
		if !errors.Is(err, errdefs.ErrUnavailable) || err.Error() != why {
			t.Errorf("got %v, want %q", err, why)
		}
	}
}

func TestTokensNeverComeBackAfterRotation(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	s, err := c.Swarm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.UpdateSwarm(t.Context(), s.Version.Index, swarm.Spec{Annotations: swarm.Annotations{Name: "default"}}, control.RotateFlags{WorkerToken: true}); err != nil {
		t.Fatal(err)
	}
	after, err := c.Swarm(t.Context())
	if err != nil || after.JoinTokens.Worker == s.JoinTokens.Worker || after.JoinTokens.Manager != s.JoinTokens.Manager {
		t.Errorf("%+v %v", after.JoinTokens, err)
	}
}

func TestUpdateAndRollback(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	id := mustCreate(t, c, spec("web", 1, port(8080, 80)))
	get := func() *cluster.Service {
		v, _ := store.Get[*cluster.Service](s.Snapshot(), id)
		return v
	}
	update := func(sp swarm.ServiceSpec, o control.UpdateOptions) error {
		_, err := c.UpdateService(t.Context(), "web", get().Version.Index, sp, o)
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	paused := get().Clone().(*cluster.Service)
	paused.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStatePaused}
	_, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.PutState(paused)); return nil })
	must(err)

	two := spec("web", 2, port(8081, 80))
	two.TaskTemplate.ContainerSpec.Image = "hello:2"
	must(update(two, control.UpdateOptions{QueryRegistry: true}))
	v := get()
	if want := "hello:2@" + testDigest.String(); v.Spec.TaskTemplate.ContainerSpec.Image != want || v.UpdateStatus != nil {
		t.Errorf("image %s, want %s; status %+v, want none", v.Spec.TaskTemplate.ContainerSpec.Image, want, v.UpdateStatus)
	}
	other := mustCreate(t, c, spec("other", 1, port(8080, 80)))

	// The way back wants the port that another service has now.
	if err := update(swarm.ServiceSpec{}, control.UpdateOptions{Rollback: "previous"}); err == nil || !strings.Contains(err.Error(), "already in use by service 'other' ("+other+")") {
		t.Errorf("rolled back onto another's port: %v", err)
	}
	must(c.RemoveService(t.Context(), "other"))
	must(update(swarm.ServiceSpec{}, control.UpdateOptions{Rollback: "previous"}))
	v = get()
	if v.Spec.TaskTemplate.ContainerSpec.Image != "hello:1" || *v.Spec.Mode.Replicated.Replicas != 1 || v.PreviousSpec.TaskTemplate.ContainerSpec.Image == "hello:1" ||
		v.UpdateStatus == nil || v.UpdateStatus.State != swarm.UpdateStateRollbackStarted || v.UpdateStatus.Message != "manually requested rollback" {
		t.Errorf("%+v %+v", v.Spec, v.UpdateStatus)
	}
	if cl, ok := store.Get[*cluster.Claim](s.Snapshot(), cluster.ClaimPort("tcp", 8080)); !ok || cl.Owner != id {
		t.Errorf("port 8080 is %+v's", cl)
	}

	// The same template in other words, with what was left out, is the same template; force is not.
	svc, err := c.Service(t.Context(), "web", true)
	must(err)
	must(update(svc.Spec, control.UpdateOptions{}))
	if d := cmp.Diff(v.Spec.TaskTemplate, get().Spec.TaskTemplate); d != "" {
		t.Error(d)
	}
	svc.Spec.TaskTemplate.ForceUpdate++
	must(update(svc.Spec, control.UpdateOptions{}))
	if get().Spec.TaskTemplate.ForceUpdate != 1 {
		t.Error("not forced")
	}
}

func TestTasksThatAreUpToDate(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	id := mustCreate(t, c, spec("web", 2))
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	for i, image := range []string{"hello:1", "hello:0"} {
		task := &cluster.Task{ServiceName: "web"}
		task.ID, task.ServiceID, task.Slot, task.Spec = image, id, i+1, svc.Spec.TaskTemplate
		task.Spec.ContainerSpec = &swarm.ContainerSpec{Image: image}
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(task)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for value, want := range map[string]int{"true": 1, "false": 2} {
		got, err := c.Tasks(t.Context(), map[string][]string{"service": {"web"}, "_up-to-date": {value}})
		if err != nil || len(got) != want || got[0].ID != "hello:1" && want == 1 {
			t.Errorf("%s: %d tasks, want %d: %v", value, len(got), want, err)
		}
	}
	if _, err := c.Tasks(t.Context(), map[string][]string{"_up-to-date": {"maybe"}}); err == nil {
		t.Error("maybe is neither")
	}
}
