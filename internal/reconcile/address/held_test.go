package address_test

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/store"
)

func TestATaskIsStoppedOnlyWhenNobodySendsItConnections(t *testing.T) {
	begin := func(t *testing.T) (*plantest.Swarm, *cluster.Task, uint64) {
		s := plantest.New(t)
		ingress(s, "10.0.0.0/24")
		s.Service("web", 1, publish(8080))
		s.Node("a")
		s.Node("b")
		s.Node("down", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
		k := task(s, "web")
		s.Settle(address.Planner{})
		plantest.Change(s, k.ID, func(t *cluster.Task) { t.NodeID, t.Status.State = "a", swarm.TaskStateRunning })
		if get(s, k).Held() {
			t.Fatal("a task that is to run is held")
		}
		plantest.Change(s, k.ID, func(t *cluster.Task) { t.DesiredState = swarm.TaskStateShutdown })
		return s, k, s.Store.Index()
	}
	t.Run("both nodes let go", func(t *testing.T) {
		s, k, stopped := begin(t)
		s.Holds["a"], s.Holds["b"] = stopped, stopped-1
		_, _, again := s.Plan(address.Planner{})
		if get(s, k).Released || again.IsZero() {
			t.Fatalf("node b still sends it connections; to be looked at again: %v", again)
		}
		s.Holds["b"] = stopped
		s.Settle(address.Planner{})
		if !get(s, k).Released {
			t.Error("still held")
		}
	})
	t.Run("a node does not come along", func(t *testing.T) {
		s, k, stopped := begin(t)
		s.Holds["a"] = stopped
		s.At = get(s, k).UpdatedAt.Add(4 * time.Second)
		s.Settle(address.Planner{})
		if !get(s, k).Released {
			t.Error("still held after the time-out")
		}
	})
}

func TestANodeThatComesBackIsWaitedFor(t *testing.T) {
	s := plantest.New(t)
	ingress(s, "10.0.0.0/24")
	s.Service("web", 1, publish(8080))
	s.Node("a")
	s.Node("back", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
	k := task(s, "web")
	var p address.Planner
	s.Settle(p)
	id := cluster.ClaimAddr("ing", get(s, k).Address("ing"))
	plantest.Change(s, k.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateFailed })
	// It is heard again, with the routes of before it was cut off, and will be ready in a moment.
	s.Heard["back"] = s.At
	s.Settle(p)
	s.Holds["a"] = s.Store.Index()
	s.Settle(p)
	plantest.Get[*cluster.Claim](s, id)
	s.Heard["back"] = s.At.Add(-time.Hour)
	s.Settle(p)
	if _, ok := store.Get[*cluster.Claim](s.Store.Snapshot(), id); ok {
		t.Error("a node that is gone for good keeps addresses from being used")
	}
}
