package control_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

// names are the secrets that there are, by name.
func names(s *store.Store) []string {
	var out []string
	for x := range store.List[*cluster.Secret](s.Snapshot()) {
		out = append(out, x.Spec.Name)
	}
	slices.Sort(out)
	return out
}

func TestRotate(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	first := mustSecret(t, c, "pass")
	other := mustSecret(t, c, "other")
	for name, id := range map[string]string{"web": first, "api": first} {
		sp := spec(name, 1)
		sp.TaskTemplate.ContainerSpec.Secrets = []*swarm.SecretReference{secretRef(other, "other", "o"), secretRef(id, "pass", "p")}
		mustCreate(t, c, sp)
	}
	mustCreate(t, c, spec("apart", 1))
	secretOf := func(sp *swarm.ServiceSpec) string { return sp.TaskTemplate.ContainerSpec.Secrets[1].SecretID }

	before := s.Index()
	same, err := c.RotateSecret(t.Context(), "pass", []byte("value of pass"))
	if err != nil || same.Updated || same.ID != first || same.Version != 1 || len(same.Services) != 0 || s.Index() != before {
		t.Fatalf("the same bytes: %+v, %v", same, err)
	}
	r, err := c.RotateSecret(t.Context(), "pass", []byte("new"))
	if err != nil || !r.Updated || r.Version != 2 || len(r.Services) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if s.Index() != before+1 {
		t.Error("a rotation is more than one write")
	}
	if got := names(s); !slices.Equal(got, []string{"other", "pass", "pass.v1"}) {
		t.Errorf("secrets %v", got)
	}
	web, _ := s.Snapshot().ServiceByName("web")
	apart, _ := s.Snapshot().ServiceByName("apart")
	if secretOf(&web.Spec) != r.ID || secretOf(web.PreviousSpec) != first || apart.PreviousSpec != nil {
		t.Errorf("web has %s after %s; apart had %v", secretOf(&web.Spec), secretOf(web.PreviousSpec), apart.PreviousSpec)
	}
	vs, err := c.SecretVersions(t.Context(), first) // named by an older one, all are listed
	if err != nil || len(vs) != 2 || vs[0].ID != r.ID || !vs[0].Current || vs[1].Name != "pass.v1" || vs[1].Current || !slices.Equal(vs[0].Services, []string{"api", "web"}) || len(vs[1].Services) != 0 {
		t.Errorf("versions %+v, %v", vs, err)
	}

	// Back to the older version, and what a client reads is what it may send back.
	if _, err := c.UpdateService(t.Context(), "web", web.Version.Index, swarm.ServiceSpec{}, control.UpdateOptions{Rollback: "previous"}); err != nil {
		t.Fatal(err)
	}
	got, _ := c.Service(t.Context(), "web", false)
	if secretOf(&got.Spec) != first {
		t.Errorf("after a rollback web has %s", secretOf(&got.Spec))
	}
	got.Spec.Labels = map[string]string{"a": "b"}
	if _, err := c.UpdateService(t.Context(), "web", got.Version.Index, got.Spec, control.UpdateOptions{}); err != nil {
		t.Errorf("an update of a service with an older version: %v", err)
	}
	if err := c.RemoveSecret(t.Context(), "pass.v1"); err == nil || !strings.Contains(err.Error(), "in use by the following service: web") {
		t.Errorf("removing the older version in use: %v", err)
	}
	// The next one takes along who went back. A name that is taken is passed over.
	mustSecret(t, c, "pass.v2")
	r, err = c.RotateSecret(t.Context(), "pass", []byte("third"))
	if err != nil || r.Version != 4 || len(r.Services) != 2 || !slices.Contains(names(s), "pass.v3") {
		t.Errorf("%+v, %v, %v", r, err, names(s))
	}

	before = s.Index()
	for name, try := range map[string]func() error{
		"an older version": func() error { _, err := c.RotateSecret(t.Context(), "pass.v1", []byte("x")); return err },
		"nothing":          func() error { _, err := c.RotateSecret(t.Context(), "pass", nil); return err },
		"too much": func() error {
			_, err := c.RotateSecret(t.Context(), "pass", make([]byte, cluster.MaxSecretSize))
			return err
		},
		"unknown": func() error { _, err := c.RotateSecret(t.Context(), "gone", []byte("x")); return err },
	} {
		if err := try(); err == nil || s.Index() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAStacksFileChanges is what `stack deploy` asks: the same request is Docker's refusal for what no stack has.
func TestAStacksFileChanges(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	labels := map[string]string{cluster.LabelStack: "shop"}
	mk := func(name, data string, l map[string]string) swarm.ConfigSpec {
		return swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name, Labels: l}, Data: []byte(data)}
	}
	for name, l := range map[string]map[string]string{"shop_page": labels, "page": nil} {
		if _, err := c.CreateConfig(t.Context(), mk(name, "one", l)); err != nil {
			t.Fatal(err)
		}
	}
	sp := spec("shop_web", 1)
	first, _ := s.Snapshot().ConfigByName("shop_page")
	sp.TaskTemplate.ContainerSpec.Configs = []*swarm.ConfigReference{configRef(first.ID, "shop_page", "/page")}
	mustCreate(t, c, sp)
	plain, _ := s.Snapshot().ConfigByName("page")
	if err := c.UpdateConfig(t.Context(), plain.ID, plain.Version.Index, mk("page", "two", nil)); !errdefs.IsInvalidArgument(err) || err.Error() != "only updates to Labels are allowed" {
		t.Errorf("a config of no stack: %v", err)
	}
	if err := c.UpdateConfig(t.Context(), first.ID, first.Version.Index, mk("shop_page", "two", map[string]string{cluster.LabelStack: "other"})); !errdefs.IsInvalidArgument(err) {
		t.Errorf("another stack's deploy: %v", err)
	}
	if err := c.UpdateConfig(t.Context(), first.ID, first.Version.Index, mk("shop_page", "two", labels)); err != nil {
		t.Fatal(err)
	}
	now, _ := s.Snapshot().ConfigByName("shop_page")
	if now.ID == first.ID || string(now.Spec.Data) != "two" || now.Number != 2 {
		t.Errorf("now %+v", now)
	}
	web, _ := s.Snapshot().ServiceByName("shop_web")
	if web.Spec.TaskTemplate.ContainerSpec.Configs[0].ConfigID != first.ID || web.PreviousSpec != nil {
		t.Error("the deploy updates the service itself")
	}
	if err := c.UpdateConfig(t.Context(), now.ID, now.Version.Index, mk("shop_page", "two", labels)); err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Snapshot().ConfigByName("shop_page"); again.ID != now.ID {
		t.Error("the same deploy again made a version")
	}
}
