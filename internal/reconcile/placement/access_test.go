package placement_test

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/store"
)

// TestWhatTheSwarmDoesNotAllowWaits places tasks that ask for a device while the swarm says yes, no and yes again.
func TestWhatTheSwarmDoesNotAllowWaits(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	allow := func(v string) *cluster.Swarm {
		sw := &cluster.Swarm{}
		sw.Spec.Labels = map[string]string{cluster.LabelAllowPrivileged: v}
		return sw
	}
	s.Put(allow("false"))
	for _, id := range []string{"plain", "privileged"} {
		k := &cluster.Task{}
		k.ID, k.ServiceID, k.DesiredState, k.Status.State = id, id, swarm.TaskStateRunning, swarm.TaskStatePending
		if id == "privileged" {
			k.Access = &cluster.Access{Privileged: true}
		}
		s.Put(k)
	}
	s.Settle(placement.Planner{})
	if k := plantest.Get[*cluster.Task](s, "plain"); k.NodeID != "n1" {
		t.Errorf("a task that asks for nothing is %+v", k.Status)
	}
	const why = "no suitable node (devices and privileges are not allowed in this swarm, see swarm update --allow-privileged)"
	if k := plantest.Get[*cluster.Task](s, "privileged"); k.NodeID != "" || k.Status.Err != why || k.Status.State != swarm.TaskStatePending {
		t.Errorf("a privileged task is on %q, %+v", k.NodeID, k.Status)
	}
	keys := func(old, now *cluster.Swarm) int {
		return len(placement.Planner{}.Keys(nil, store.Event{Kind: cluster.KindSwarm, Old: old, New: now}))
	}
	if keys(allow("false"), allow("true")) != 1 || keys(allow("true"), allow("true")) != 0 {
		t.Error("a change of the setting does not plan, or anything else does")
	}
	plantest.Change(s, cluster.SingletonID, func(sw *cluster.Swarm) { sw.Spec.Labels[cluster.LabelAllowPrivileged] = "true" })
	s.Settle(placement.Planner{})
	if k := plantest.Get[*cluster.Task](s, "privileged"); k.NodeID != "n1" {
		t.Errorf("once allowed it is %+v", k.Status)
	}
}
