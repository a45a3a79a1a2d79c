package control_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func mustSecret(t *testing.T, c *control.Control, name string) string {
	t.Helper()
	id, err := c.CreateSecret(t.Context(), swarm.SecretSpec{Annotations: swarm.Annotations{Name: name}, Data: []byte("value of " + name)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustConfig(t *testing.T, c *control.Control, name string) string {
	t.Helper()
	id, err := c.CreateConfig(t.Context(), swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name}, Data: []byte("text of " + name)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func secretRef(id, name, target string) *swarm.SecretReference {
	return &swarm.SecretReference{SecretID: id, SecretName: name, File: &swarm.SecretReferenceFileTarget{Name: target, UID: "0", GID: "0", Mode: 0o444}}
}

func configRef(id, name, target string) *swarm.ConfigReference {
	return &swarm.ConfigReference{ConfigID: id, ConfigName: name, File: &swarm.ConfigReferenceFileTarget{Name: target, UID: "0", GID: "0", Mode: 0o444}}
}

func TestReferencesToSecretsAndConfigs(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	pass, page := mustSecret(t, c, "pass"), mustConfig(t, c, "page")
	before := s.Index()
	for _, tc := range []struct {
		name    string
		secrets []*swarm.SecretReference
		configs []*swarm.ConfigReference
		want    string
	}{
		{"unknown secret", []*swarm.SecretReference{secretRef("x", "gone", "gone")}, nil, "secret not found: gone"},
		{"two unknown secrets", []*swarm.SecretReference{secretRef("x", "a", "a"), secretRef("y", "b", "b")}, nil, "secrets not found: a, b"},
		{"another name", []*swarm.SecretReference{secretRef(pass, "word", "word")}, nil, "secret not found: word"},
		{"another config's name", nil, []*swarm.ConfigReference{configRef(page, "side", "side")}, "config not found: side"},
		{"no ID", []*swarm.SecretReference{secretRef("", "pass", "pass")}, nil, "malformed secret reference"},
		{"no target", []*swarm.SecretReference{{SecretID: pass, SecretName: "pass"}}, nil, "malformed secret reference, no target provided"},
		{"no config's target", nil, []*swarm.ConfigReference{{ConfigID: page, ConfigName: "page"}}, "invalid Config: either File or Runtime should be set"},
		{"no file's name", []*swarm.SecretReference{secretRef(pass, "pass", "")}, nil, "malformed file secret reference, invalid target file name provided"},
		{"no config's file's name", nil, []*swarm.ConfigReference{configRef(page, "page", "/")}, "malformed file config reference, invalid target file name provided"},
		{"one target twice", []*swarm.SecretReference{secretRef(pass, "pass", "a"), secretRef(pass, "pass", "/run/secrets/a")}, nil, "secret references 'pass' and 'pass' have a conflicting target: '/run/secrets/a'"},
		{"a secret's target is a config's", []*swarm.SecretReference{secretRef(pass, "pass", "/a")}, []*swarm.ConfigReference{configRef(page, "page", "a")}, "config references 'pass' and 'page' have a conflicting target: 'a'"},
		{"an owner by name", []*swarm.SecretReference{{SecretID: pass, SecretName: "pass", File: &swarm.SecretReferenceFileTarget{Name: "a", UID: "root"}}}, nil, `invalid owner "root"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sp := spec("web", 1)
			sp.TaskTemplate.ContainerSpec.Secrets, sp.TaskTemplate.ContainerSpec.Configs = tc.secrets, tc.configs
			_, err := c.CreateService(t.Context(), sp, "", false)
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if s.Index() != before {
		t.Error("a refused request changed the store")
	}
}

func TestWhatIsInUseStays(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	pass, page := mustSecret(t, c, "pass"), mustConfig(t, c, "page")
	for _, name := range []string{"web", "api"} {
		sp := spec(name, 1)
		sp.TaskTemplate.ContainerSpec.Secrets = []*swarm.SecretReference{secretRef(pass, "pass", "pass")}
		sp.TaskTemplate.ContainerSpec.Configs = []*swarm.ConfigReference{configRef(page, "page", "/etc/page")}
		mustCreate(t, c, sp)
	}
	before := s.Index()
	if err := c.RemoveSecret(t.Context(), "pass"); !errdefs.IsInvalidArgument(err) || err.Error() != "secret 'pass' is in use by the following services: api, web" {
		t.Errorf("removing a secret in use: %v", err)
	}
	if err := c.RemoveService(t.Context(), "api"); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveConfig(t.Context(), "page"); !errdefs.IsInvalidArgument(err) || err.Error() != "config 'page' is in use by the following service: web" {
		t.Errorf("removing a config in use: %v", err)
	}
	if s.Index() != before+1 {
		t.Error("a refused removal changed the store")
	}
	// An update without them frees them; one that brings them back is refused once they are gone.
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdateService(t.Context(), "web", svc.Version.Index, spec("web", 1), control.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.RemoveSecret(t.Context(), "pass"), c.RemoveConfig(t.Context(), page[:10])); err != nil {
		t.Fatal(err)
	}
	if svc, err = c.Service(t.Context(), "web", false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdateService(t.Context(), "web", svc.Version.Index, swarm.ServiceSpec{}, control.UpdateOptions{Rollback: "previous"}); err == nil || !strings.Contains(err.Error(), "secret not found: pass") {
		t.Errorf("a rollback to what is gone: %v", err)
	}
	mustSecret(t, c, "pass") // the name is free again
	for range store.List[*cluster.SecretData](s.Snapshot()) {
		return
	}
	t.Error("the new secret has no bytes")
}

// TestARemovalBesideAServiceThatUsesIt lets a service be made between the removal's look at the services and its write.
func TestARemovalBesideAServiceThatUsesIt(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	pass := mustSecret(t, c, "pass")
	sp := spec("web", 1)
	sp.TaskTemplate.ContainerSpec.Secrets = []*swarm.SecretReference{secretRef(pass, "pass", "pass")}
	stale := s.Snapshot()
	mustCreate(t, c, sp)
	cl, _ := store.Get[*cluster.Claim](stale, cluster.ClaimName(cluster.KindSecret, "pass"))
	rec, _ := store.Get[*cluster.Secret](stale, pass)
	_, errs, err := s.Propose(t.Context(), []store.Group{{Changes: []store.Change{store.Delete(rec), store.Delete(cl)}}})
	if err != nil || errs[0] == nil {
		t.Errorf("a removal that did not see the service: %v, %v", errs, err)
	}
}
