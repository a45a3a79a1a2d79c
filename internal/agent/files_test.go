package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/store"
)

func (b *bench) secret(id, name, payload string, tmpl *swarm.Driver) {
	b.t.Helper()
	b.update(func(tx *store.Tx) {
		s := &cluster.Secret{}
		s.ID, s.Spec.Name, s.Spec.Templating = id, name, tmpl
		tx.Write(store.Create(s))
		tx.Write(store.Create(&cluster.SecretData{ID: id, Data: []byte(payload)}))
	})
}

func (b *bench) config(id, name, payload string, tmpl *swarm.Driver) {
	b.t.Helper()
	b.update(func(tx *store.Tx) {
		c := &cluster.Config{}
		c.ID, c.Spec.Name, c.Spec.Data, c.Spec.Templating = id, name, []byte(payload), tmpl
		tx.Write(store.Create(c))
	})
}

// withFiles is a task that uses the secret s1 and the config c1.
func withFiles(id string) *cluster.Task {
	t := newTask(id, 0)
	c := t.Spec.ContainerSpec
	c.Args = []string{"sleep"}
	c.Env = []string{"SLOT={{.Task.Slot}}"}
	c.Hostname = "{{.Service.Name}}-{{.Node.Hostname}}"
	c.Secrets = []*swarm.SecretReference{{SecretID: "s1", SecretName: "pass", File: &swarm.SecretReferenceFileTarget{Name: "password", UID: "7", GID: "8", Mode: 0o400}}}
	c.Configs = []*swarm.ConfigReference{{ConfigID: "c1", ConfigName: "page", File: &swarm.ConfigReferenceFileTarget{Name: "etc/page", Mode: 0o444}}}
	return t
}

func TestATaskGetsItsSecretsAndConfigs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		eng := fake.New()
		t.Cleanup(eng.Close)
		if err := eng.Offer("hello:1"); err != nil {
			t.Fatal(err)
		}
		b.use = eng
		const canary = "canary-9e3d"
		b.secret("s1", "pass", canary, nil)
		b.config("c1", "page", `slot {{env "SLOT"}} of {{.Service.Name}} on {{.Node.Hostname}}: {{secret "password"}}`, &swarm.Driver{Name: "golang"})
		stop := b.agent()
		b.create(withFiles("a"))
		st := b.await("a", swarm.TaskStateRunning)
		want := []engine.File{
			{Target: "/run/secrets/password", UID: 7, GID: 8, Mode: 0o400, Data: []byte(canary)},
			{Target: "/etc/page", Mode: 0o444, Data: []byte("slot 1 of web on host1: " + canary)},
		}
		if d := cmp.Diff(want, eng.Files(st.ContainerStatus.ContainerID)); d != "" {
			t.Error(d)
		}
		in, err := eng.Inspect(t.Context(), st.ContainerStatus.ContainerID)
		if err != nil || in.Config.Hostname != "web-host1" || in.Config.Env[0] != "SLOT=1" {
			t.Errorf("inspect %+v, %v", in.Config, err)
		}
		// The agent writes what it has seen, and no secret.
		settle(5 * time.Second)
		stop()
		err = filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if strings.Contains(string(data), canary) {
				t.Errorf("%s holds the secret", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		// The next life takes the container over as it is.
		b.agent()
		settle(5 * time.Second)
		if d := cmp.Diff(want, eng.Files(st.ContainerStatus.ContainerID)); d != "" {
			t.Error(d)
		}
		b.desire("a", swarm.TaskStateShutdown)
		b.await("a", swarm.TaskStateShutdown)
		if left := eng.Files(st.ContainerStatus.ContainerID); left != nil {
			t.Errorf("an ended container has still %v", left)
		}
	})
}

func TestABadTemplateShowsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.secret("s1", "pass", `{{ canary-77`, &swarm.Driver{Name: "golang"})
		b.config("c1", "page", "x", nil)
		b.agent()
		b.create(withFiles("a"))
		st := b.await("a", swarm.TaskStateRejected)
		if strings.Contains(st.Err, "canary") || !strings.HasPrefix(st.Err, "secret pass: the template is not valid") {
			t.Errorf("the task says %q", st.Err)
		}
	})
}
