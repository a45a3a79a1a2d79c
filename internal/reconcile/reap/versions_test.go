package reap_test

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/store"
)

// TestOlderVersions takes away, one by one, what keeps an older version of a secret.
func TestOlderVersions(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	secret := func(id, name, of string) {
		x := &cluster.Secret{}
		x.ID, x.Spec.Name, x.VersionOf = id, name, of
		s.Put(x, &cluster.SecretData{ID: id, Data: []byte(id)}, &cluster.Claim{ID: cluster.ClaimName(cluster.KindSecret, name), Owner: id})
	}
	secret("old", "pass.v1", "pass")
	secret("new", "pass", "")
	with := func(id string) swarm.TaskSpec {
		return swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Secrets: []*swarm.SecretReference{{SecretID: id, SecretName: "pass"}}}}
	}
	s.Service("web", 1, func(v *cluster.Service) {
		v.Spec.TaskTemplate, v.PreviousSpec = with("new"), &swarm.ServiceSpec{TaskTemplate: with("old")}
	})
	keeps := &cluster.Config{}
	keeps.ID, keeps.Spec.Name, keeps.Spec.Labels = "rev", "shop.revision.1", map[string]string{cluster.LabelKeeps: "other,old"}
	task := &cluster.Task{}
	task.ID, task.ServiceID, task.Slot, task.NodeID, task.Spec = "t", "web", 1, "n1", with("old")
	task.Status.State, task.DesiredState = "running", "shutdown"
	s.Put(keeps, task, &cluster.Claim{ID: cluster.ClaimSlot("web", 1), Owner: "t"})

	// left plans for what an event asks for, as the runner does.
	left := func(e store.Event) bool {
		t.Helper()
		for _, k := range (reap.Planner{}).Keys(s.Store.Snapshot(), e) {
			if plan := (reap.Planner{}).Plan(s.Store.Snapshot(), k, s.Env()); len(plan.Groups) > 0 {
				if _, errs, err := s.Store.Propose(t.Context(), plan.Groups); err != nil || errs[0] != nil {
					t.Fatal(errs, err)
				}
			}
		}
		_, ok := store.Get[*cluster.Secret](s.Store.Snapshot(), "old")
		return ok
	}
	s.Settle(reap.Planner{})
	web := plantest.Get[*cluster.Service](s, "web")
	plantest.Change(s, "web", func(v *cluster.Service) { v.PreviousSpec = nil })
	if !left(store.Event{Kind: cluster.KindService, ID: "web", Old: web, New: plantest.Get[*cluster.Service](s, "web")}) {
		t.Fatal("it is gone while a task has it")
	}
	was := plantest.Get[*cluster.Task](s, "t")
	plantest.Change(s, "t", func(k *cluster.Task) { k.Status.State = "shutdown" })
	if !left(store.Event{Kind: cluster.KindTask, ID: "t", Old: was, New: plantest.Get[*cluster.Task](s, "t")}) {
		t.Fatal("it is gone while a config keeps it")
	}
	rev := plantest.Get[*cluster.Config](s, "rev")
	plantest.Change(s, "rev", func(c *cluster.Config) { c.Spec.Labels = nil })
	rev2 := plantest.Get[*cluster.Config](s, "rev")
	for range 2 {
		if !left(store.Event{Kind: cluster.KindConfig, ID: "rev", Old: rev, New: rev2}) {
			t.Fatal("it is gone at once")
		}
	}
	// Used once more, it is kept.
	plantest.Change(s, "web", func(v *cluster.Service) { v.PreviousSpec = &swarm.ServiceSpec{TaskTemplate: with("old")} })
	s.At = s.At.Add(2 * time.Minute)
	s.Settle(reap.Planner{})
	if !plantest.Get[*cluster.Secret](s, "old").UnusedAt.IsZero() {
		t.Error("it counts as unused")
	}
	plantest.Change(s, "web", func(v *cluster.Service) { v.PreviousSpec = nil })
	s.Settle(reap.Planner{})
	s.At = s.At.Add(2 * time.Minute)
	if left(store.Event{Kind: cluster.KindConfig, ID: "rev", Old: rev, New: plantest.Get[*cluster.Config](s, "rev")}) {
		t.Fatal("it is there although nothing uses it")
	}
	if _, ok := store.Get[*cluster.SecretData](s.Store.Snapshot(), "old"); ok {
		t.Error("its bytes are there")
	}
	if _, ok := store.Get[*cluster.Claim](s.Store.Snapshot(), cluster.ClaimName(cluster.KindSecret, "pass.v1")); ok {
		t.Error("its name is taken")
	}
	s.Settle(reap.Planner{})
	plantest.Get[*cluster.Secret](s, "new")
}
