package agent_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/store"
)

// TestATaskIsPulledWithItsServicesCredentials runs tasks whose image only one user may have.
func TestATaskIsPulledWithItsServicesCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		eng := fake.New()
		t.Cleanup(eng.Close)
		eng.AnyImage = true
		eng.Door = func(_ reference.Named, auth *registry.AuthConfig) error {
			if auth == nil || auth.Username != "ada" {
				return errdefs.ErrUnauthenticated.WithMessage("no basic auth credentials")
			}
			return nil
		}
		b.use = eng
		b.agent()
		one := newTask("a", 0)
		one.Spec.ContainerSpec.Image = "r.example/team/app:1"
		b.create(one)
		if st := b.await("a", swarm.TaskStateRejected); st.Err != "No such image: r.example/team/app:1" || !strings.Contains(st.Message, "no basic auth credentials") {
			t.Errorf("without credentials: %+v", st)
		}
		ada := base64.URLEncoding.EncodeToString([]byte(`{"username":"ada","password":"p"}`))
		b.update(func(tx *store.Tx) {
			tx.Write(store.Create(&cluster.Credentials{ID: one.ServiceID, Auth: map[string]string{"r.example/team/app": ada, "r.example/team/bad": "%"}}))
		})
		for id, image := range map[string]string{"b": "r.example/team/app:1", "c": "r.example/team/app:2"} {
			n := newTask(id, 0)
			n.Spec.ContainerSpec.Image = image
			b.create(n)
			b.await(id, swarm.TaskStateRunning)
		}
		// Those of one repository are not another's.
		for id, image := range map[string]string{"d": "r.example/team/other:1", "e": "r.example/team/bad:1"} {
			n := newTask(id, 0)
			n.Spec.ContainerSpec.Image = image
			b.create(n)
			b.await(id, swarm.TaskStateRejected)
		}
	})
}
