// Package rebalance decides which tasks of a service move to nodes that have fewer of them: after a node joined or came
// back, for a service whose label says so, or once because a user asked.
//
// It owns [cluster.Task.Moving] until the service planner, which replaces such a task, takes it back, and the end of
// [cluster.Service.Rebalancing]. Where a task could go it asks package placement, which places the successor by the same
// rules. It never makes or stops a task, and it waits while the service is updated, while tasks of it wait for a node, and
// while as many of its tasks are being replaced as its update configuration allows.
package rebalance

import (
	"fmt"
	"reflect"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/store"
)

// retry is when a service that is not even is looked at again though nothing of it changed: tasks of others may have made
// room, and failures on a node be forgotten.
const retry = 30 * time.Second

// Planner plans one service a key; the key is the service's ID.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "rebalance".
func (Planner) Name() string { return "rebalance" }

// Keys is a service that is to be balanced when it, one of its tasks or any node has become another as far as that goes.
func (p Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindService:
		if s, _ := e.New.(*cluster.Service); s != nil && s.Rebalances() {
			return []reconcile.Key{reconcile.Key(e.ID)}
		}
	case cluster.KindTask:
		old, _ := e.Old.(*cluster.Task)
		t, _ := e.New.(*cluster.Task)
		if old != nil && t != nil && old.Version == t.Version && old.Ended() == t.Ended() && old.RunningAt == t.RunningAt {
			return nil // a step of its life that changes nothing here
		}
		if t == nil {
			t = old
		}
		if s, ok := store.Get[*cluster.Service](snap, t.ServiceID); ok && s.Rebalances() {
			return []reconcile.Key{reconcile.Key(s.ID)}
		}
	case cluster.KindNode:
		old, _ := e.Old.(*cluster.Node)
		n, _ := e.New.(*cluster.Node)
		if old == nil || n == nil || old.Status.State != n.Status.State || old.DiskFull != n.DiskFull || !reflect.DeepEqual(old.Spec, n.Spec) || !reflect.DeepEqual(old.Description, n.Description) {
			return p.AllKeys(snap)
		}
	}
	return nil
}

// AllKeys is every service that is to be balanced.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	for s := range store.List[*cluster.Service](snap) {
		if s.Rebalances() {
			keys = append(keys, reconcile.Key(s.ID))
		}
	}
	return keys
}

// Plan marks the tasks that are to move now.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	svc, ok := store.Get[*cluster.Service](snap, string(key))
	if !ok || !svc.Rebalances() {
		return reconcile.Plan{}
	}
	var plan reconcile.Plan
	running, busy, why := look(snap, svc)
	if why != "" {
		plan.Reasons = []string{"service " + svc.ID + " is not rebalanced: " + why}
		return plan
	}
	limit := len(running)
	if p := parallelism(svc); p > 0 {
		limit = int(min(p, 1<<31)) - busy
	}
	if limit <= 0 && busy > 0 {
		return plan
	}
	moves := placement.Improve(snap, running, limit, env.Now)
	for _, m := range moves {
		t := cluster.Fork(m.Task)
		t.Moving = true
		plan.Groups = append(plan.Groups, store.Group{
			Why:     fmt.Sprintf("task %s moves to node %s, which has fewer of the service's", t.ID, m.To.ID),
			Changes: []store.Change{store.PutSpec(t)},
		})
	}
	if len(moves) == 0 && svc.Spec.Labels[cluster.LabelRebalance] == cluster.RebalanceAuto && uneven(snap, svc, running) {
		plan.Again = env.Now.Add(retry)
	}
	if len(moves) == 0 && busy == 0 && svc.Rebalancing {
		s := cluster.Fork(svc)
		s.Rebalancing = false
		plan.Groups = append(plan.Groups, store.Group{Why: "the service is balanced", Changes: []store.Change{store.PutState(s)}})
	}
	return plan
}

// uneven says whether the service could be spread better if some node were not full or of no use to it.
func uneven(snap *store.Snapshot, svc *cluster.Service, running []*cluster.Task) bool {
	own := map[string]int{}
	for _, t := range running {
		own[t.NodeID]++
	}
	least, most := len(running), 0
	for n := range store.List[*cluster.Node](snap) {
		if n.Status.State == swarm.NodeStateReady && n.Spec.Availability == swarm.NodeAvailabilityActive {
			least, most = min(least, own[n.ID]), max(most, own[n.ID])
		}
	}
	p := svc.Spec.TaskTemplate.Placement
	return most-least > 1 || p != nil && len(p.Preferences) > 0
}

// parallelism is how many tasks of the service may be replaced at a time; 0: all.
func parallelism(svc *cluster.Service) uint64 {
	if c := svc.Spec.UpdateConfig; c != nil {
		return c.Parallelism
	}
	return 1
}

// look finds the tasks that run and may move, and how many slots lack a running task or have one that is being replaced.
// why says what must be over before anything moves, or "".
func look(snap *store.Snapshot, svc *cluster.Service) (running []*cluster.Task, busy int, why string) {
	if st := svc.UpdateStatus; st != nil && st.State != swarm.UpdateStateCompleted && st.State != swarm.UpdateStateRollbackCompleted {
		return nil, 0, "its update is " + string(st.State)
	}
	slots := map[int]bool{}
	for t := range snap.TasksByService(svc.ID) {
		if t.DesiredState != swarm.TaskStateRemove {
			slots[t.Slot] = true // also one that has finished
		}
		if !t.WantsToRun() {
			continue
		}
		c, ok := store.Get[*cluster.Claim](snap, t.SlotClaim())
		switch holds := ok && c.Owner == t.ID; {
		case !t.Follows(svc):
			return nil, 0, "it is about to be updated"
		case t.NodeID == "" || cluster.Before(t.Status.State, swarm.TaskStateAssigned):
			return nil, 0, "task " + t.ID + " waits for a node"
		case holds && t.Moving:
			return nil, 0, "task " + t.ID + " is about to move"
		case !holds: // it stands in for its successor, which is counted
		case t.Status.State != swarm.TaskStateRunning:
			busy++
		case movable(t):
			running = append(running, t)
		}
	}
	if want := svc.Replicas(); uint64(len(slots)) < want {
		return running, busy + int(min(want-uint64(len(slots)), 1<<31)), ""
	}
	return running, busy, ""
}

// movable says whether the restart policy lets another task follow this one.
func movable(t *cluster.Task) bool {
	rp := t.Spec.RestartPolicy
	return rp == nil || rp.Condition != swarm.RestartPolicyConditionNone
}
