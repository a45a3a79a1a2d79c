package placement_test

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/store"
)

// TestATaskWaits holds a task back until what its service depends on was there.
func TestATaskWaits(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	s.Service("db", 1, func(v *cluster.Service) { v.Spec.Name = "shop_db" })
	s.Service("web", 1, func(v *cluster.Service) {
		v.Spec.Labels = map[string]string{cluster.LabelStack: "shop", cluster.LabelDependsOn: "db:service_healthy,mq"}
	})
	k := &cluster.Task{}
	k.ID, k.ServiceID, k.Slot, k.Status.State, k.DesiredState = "t", "web", 1, swarm.TaskStatePending, swarm.TaskStateRunning
	s.Put(k)
	s.Settle(placement.Planner{})
	got := plantest.Get[*cluster.Task](s, "t")
	if want := "waits for shop_db (healthy), mq (there is no such service)"; got.NodeID != "" || got.Status.Err != want {
		t.Fatalf("on %q, %q", got.NodeID, got.Status.Err)
	}
	if e := placement.Explain(s.Store.Snapshot(), plantest.Get[*cluster.Service](s, "web"), s.At); len(e.Waiting) != 1 || e.Waiting[0].Reason != got.Status.Err {
		t.Errorf("the explanation is %+v", e.Waiting)
	}
	old := plantest.Get[*cluster.Service](s, "web")
	plantest.Change(s, "web", func(v *cluster.Service) { v.Met = []string{"db (healthy)", "mq (started)"} })
	if keys := (placement.Planner{}).Keys(s.Store.Snapshot(), store.Event{Kind: cluster.KindService, ID: "web", Old: old, New: plantest.Get[*cluster.Service](s, "web")}); len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
	s.Settle(placement.Planner{})
	if got := plantest.Get[*cluster.Task](s, "t"); got.NodeID != "n1" || got.Status.Err != "" {
		t.Errorf("on %q, %q", got.NodeID, got.Status.Err)
	}
}
